"""Images among the words of a question, where a model reads them before the words only."""

from __future__ import annotations

import shutil

import pytest
from msgspec.structs import replace

from mataserver import InvalidParams, ModelSpec
from mataserver_hf import vlm
from mataserver_hf.prompt_formats import chat_prompt
from mataserver_hf.vlm_params import Turn, VlmParams

IMAGES_FIRST = (
    "{% for m in messages %}{{ m['role'] }}: "
    "{% for c in m['content'] if c['type'] == 'image' %}<image>{% endfor %}"
    "{% for c in m['content'] if c['type'] == 'text' %}{{ c['text'] }}{% endfor %} "
    "{% endfor %}assistant:"
)
"""In the manner of the published LLaVA's."""
BY_NUMBER = (
    "{% for m in messages %}{{ m['role'] }}: {% if m['content'][0]['type'] == 'image' %}"
    "<image>{{ m['content'][1]['text'] }}{% else %}{{ m['content'][0]['text'] }}{% endif %} "
    "{% endfor %}assistant:"
)
"""Takes the first part of a content for an image and the second for words, if it has an image."""
IMAGE_ATTRIBUTE = BY_NUMBER.replace(
    "m['content'][0]['type'] == 'image'", "m['role'] == 'user' and m['content'][1]"
).replace("['text'] }}{% else", ".text + '' }}{% else")
"""The same, and fails on an image in the place of words."""
IN_PLACE = (
    "{% for m in messages %}{{ m['role'] }}: {% for c in m['content'] %}"
    "{% if c['type'] == 'image' %}<image>{% else %}{{ c['text'] }}{% endif %}"
    "{% endfor %} {% endfor %}assistant:"
)


@pytest.fixture
def with_template(checkpoint, session_context, tmp_path):
    """Load a LLaVA that has another chat template."""

    def load(template):
        path = shutil.copytree(checkpoint("llava"), tmp_path / "llava")
        (path / "chat_template.jinja").write_text(template)
        return vlm.load(ModelSpec("tiny/llava", "vlm", "hf", path), session_context)

    return load


def written(loaded, params):
    """Return the text that the tokens are made of."""
    return chat_prompt(loaded._prompt_processor._processor, params, params.prompt)


RECEIPT = "Read this receipt.What is the total?"
PLACES = (
    # a question, where its image stands, and its words after the image
    (RECEIPT, 18, "Read this receipt.\nWhat is the total?"),
    (RECEIPT, len(RECEIPT), RECEIPT),
    (RECEIPT, 0, RECEIPT),
    ("Read:\nWhat?", 6, "Read:\nWhat?"),
    ("What?\n", 6, "What?"),
)


@pytest.mark.parametrize("template", [IMAGES_FIRST, BY_NUMBER, IMAGE_ATTRIBUTE])
def test_a_template_that_shows_images_first(template, with_template, picture):
    """The words before an image and those after it are lines; the image may stand last."""
    loaded, image = with_template(template), picture(40, 40)
    for prompt, place, words in PLACES:
        asked = VlmParams(prompt=prompt, image_places=(place,), max_tokens=8)
        assert written(loaded, asked) == f"user: <image>{words} assistant:"
        lines = VlmParams(prompt=words, max_tokens=8)
        assert loaded.predict([image], [asked]) == loaded.predict([image], [lines])


@pytest.mark.parametrize("template", [IMAGES_FIRST, BY_NUMBER])
def test_earlier_questions_are_lines_too(template, with_template):
    """Each with its own images, whichever of them has one among its words."""
    loaded = with_template(template)
    turn = Turn("Here:what?", "A cat.", image_places=(5,))
    asked = VlmParams(prompt="Sure?", system_prompt="Be brief.", history=(turn,))
    text = "system: Be brief. user: <image>Here:\nwhat? assistant: A cat. user: Sure? assistant:"
    assert written(loaded, asked) == text
    later = replace(asked, history=(Turn("Hi", "Hello"),), image_turn=1, image_places=(4,))
    text = "system: Be brief. user: Hi assistant: Hello user: <image>Sure\n? assistant:"
    assert written(loaded, later) == text


def test_several_images_before_the_words(with_template):
    """A line ends where one or more of them stood."""
    loaded = with_template(IMAGES_FIRST)
    places = (5, 15, 15)
    asked = VlmParams(prompt="This: and this: ?", images=(b"x", b"y"), image_places=places)
    text = "user: <image><image><image>This:\n and this:\n ? assistant:"
    assert written(loaded, asked) == text


def test_a_template_that_shows_images_in_place(with_template):
    """Its words have no line break more than the question."""
    loaded = with_template(IN_PLACE)
    turn = Turn("Here:what?", "A cat.", image_places=(5,))
    asked = VlmParams(prompt=RECEIPT, history=(turn,), images=(b"x",), image_places=(18,))
    text = "user: Here:<image>what? assistant: A cat. user: Read this receipt.<image>What is the"
    assert written(loaded, asked) == f"{text} total? assistant:"


def test_what_else_a_template_does_not_hold(with_template):
    """Several images are refused for their number, not for their places."""
    loaded = with_template(BY_NUMBER)
    asked = VlmParams(prompt="This: and this: ?", images=(b"x",), image_places=(5, 15))
    with pytest.raises(InvalidParams, match=r"^params\.images: this model reads one image a req"):
        written(loaded, asked)


@pytest.mark.parametrize("template", [IMAGES_FIRST, IN_PLACE])
def test_the_layout_of_an_answer_is_no_line_of_the_question(template, with_template, picture):
    """It follows the words as it does without places."""
    loaded, image = with_template(template), picture(40, 40)
    asked = VlmParams(prompt="What is it?", output_mode="json", max_tokens=8)

    def tokens(**changes):
        return loaded._question(image, replace(asked, **changes))[0]["input_ids"].tolist()

    last, first = tokens(image_places=(11,)), tokens()
    assert (last == first) == (template is IMAGES_FIRST)
    assert tokens(image_places=(0,)) == first


@pytest.mark.parametrize(
    ("name", "mode"), [("paligemma", None), ("paligemma", "detect"), ("florence2", None)]
)
def test_a_model_that_reads_its_image_apart(name, mode, model, picture):
    """Its words are the same lines, with a task before them and without."""
    loaded, image = model(name), picture(40, 40)

    def tokens(prompt, *places):
        asked = VlmParams(prompt=prompt, image_places=places, output_mode=mode)
        return loaded._question(image, asked)[0]["input_ids"].tolist()

    assert tokens("captionen", 7) == tokens("caption\nen") != tokens("captionen")
    for prompt, place, words in PLACES:
        assert tokens(prompt, place) == tokens(words)


def test_a_task_word_may_stand_before_its_image(model, picture):
    """In a message of its own too, the end of which is no word beside the task."""
    loaded, image = model("florence2"), picture(40, 40)
    [task, *_] = loaded._prompt_processor._processor.task_prompts_without_inputs

    def answered(prompt, *places):
        asked = VlmParams(prompt=prompt, image_places=places, max_tokens=8)
        return loaded.predict([image], [asked])

    assert answered(f"{task}\n", len(task) + 1) == answered(task)
    with pytest.raises(InvalidParams, match="must stand alone"):
        answered(f"{task}what?", len(task))
