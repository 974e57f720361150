"""Conversations with several images, against transformers itself."""

from __future__ import annotations

import dataclasses
import io
import shutil
from itertools import permutations

import numpy as np
import pytest
from msgspec import convert
from msgspec.structs import replace
from PIL import Image

from mataserver import BadRequest, InvalidParams, ModelSpec
from mataserver_hf import vlm
from mataserver_hf.options import Settings
from mataserver_hf.vlm_params import Turn, VlmParams

CHATTING = sorted(vlm.FAMILIES - {"paligemma", "florence2"})
SINGLE = ("paligemma", "florence2")
SIZES = ((60, 90), (80, 50), (70, 70))


def encoded(image):
    """Return an image as a PNG."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="session")
def pictures(picture):
    """Three images that nothing could mistake for each other: dark, noisy, and bright."""
    dark, noisy, bright = (picture(*size, seed) for seed, size in enumerate(SIZES))
    return [dark // 8, noisy, 255 - bright // 4]


def conversation(first, second, third):
    """Return parameters: the first image in an earlier turn, the others in the question."""
    shown = Turn("What is this?", "A cat.")
    asked = VlmParams(prompt="And these two?", history=(shown,), max_tokens=8)
    return first, replace(asked, images=(encoded(second), encoded(third)))


def written_out(first, second, third):
    """Return the same as chat templates take it."""
    first, second, third = (
        {"type": "image", "image": Image.fromarray(each)} for each in (first, second, third)
    )
    asked, answer, again = (
        {"type": "text", "text": text} for text in ("What is this?", "A cat.", "And these two?")
    )
    return [
        {"role": "user", "content": [first, asked]},
        {"role": "assistant", "content": [answer]},
        {"role": "user", "content": [second, third, again]},
    ]


def by_hand(path, messages):
    """Prepare a conversation as Qwen's and SmolVLM's own processors do, which need torchvision."""
    import torch
    from transformers import AutoImageProcessor, AutoTokenizer
    from transformers.models.smolvlm.processing_smolvlm import get_image_prompt_string

    tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True)
    pixels = AutoImageProcessor.from_pretrained(path, local_files_only=True)
    text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    shown = [part["image"] for said in messages for part in said["content"] if "image" in part]
    if path.name == "smolvlm":
        read = pixels(images=[shown], return_row_col_info=True, return_tensors="pt")
        [rows], [columns] = read.pop("rows"), read.pop("cols")
        marks = ("<fake_token_around_image>", "<image>", "<global-img>")
        mark = "<image>"
        tokens = [
            get_image_prompt_string(*tiles, 4, *marks) for tiles in zip(rows, columns, strict=True)
        ]
    else:
        read = pixels(images=shown, return_tensors="pt")
        mark = "<|image_pad|>"
        tokens = [mark * (int(grid.prod()) // 4) for grid in read["image_grid_thw"]]
    first, *others = text.split(mark)
    text = first + "".join(a + b for a, b in zip(tokens, others, strict=True))
    made = {**tokenizer(text, return_tensors="pt"), **read}
    if path.name != "smolvlm":
        image = tokenizer.convert_tokens_to_ids(mark)
        made["mm_token_type_ids"] = (made["input_ids"] == image).to(torch.int64)
    return made


def by_processor(path, messages):
    """Prepare a conversation by the processor that transformers finds itself."""
    from transformers import AutoProcessor

    options = {"tokenize": True, "return_dict": True, "return_tensors": "pt"}
    processor = AutoProcessor.from_pretrained(path, local_files_only=True)
    return processor.apply_chat_template(messages, add_generation_prompt=True, **options)


def generated(path, conversations):
    """Return the texts and counts of prompt tokens of transformers' own ``generate``."""
    import torch
    from transformers import AutoModelForImageTextToText, AutoTokenizer

    prepare = by_hand if path.name == "smolvlm" or "qwen" in path.name else by_processor
    network = AutoModelForImageTextToText.from_pretrained(path, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(path)
    answers = []
    for messages in conversations:
        question = prepare(path, messages)
        with torch.inference_mode():
            tokens = network.generate(**question, max_new_tokens=8, do_sample=False, num_beams=1)
        length = question["input_ids"].shape[1]
        answers.append((tokenizer.decode(tokens[0, length:], skip_special_tokens=True), length))
    return answers


@pytest.mark.parametrize("name", CHATTING)
def test_equals_transformers(name, model, checkpoint, pictures):
    """In every order of the images the text and its usage are those of transformers' ``generate``.

    Random weights tell the orders apart, so that no image can have stood in another's place.
    """
    orders = list(permutations(pictures))
    expected = generated(checkpoint(name), [written_out(*shown) for shown in orders])
    asked = [conversation(*shown) for shown in orders]
    answers = [model(name).predict([image], [params])[0] for image, params in asked]
    assert [(each.text, each.usage.prompt_tokens) for each in answers] == expected
    assert len({each.text for each in answers}) > 3


def among_words(first, second, third):
    """Return parameters with images between the words of both questions."""
    shown = Turn("Is this one grey?", "Yes.", image_places=(7,))
    asked = VlmParams(
        prompt="This: and this: differ?",
        history=(shown,),
        images=(encoded(second), encoded(third)),
        image_places=(5, 15),
        max_tokens=8,
    )
    return first, asked


def among_words_written_out(first, second, third):
    """Return the same as chat templates take it."""
    said = [["Is this", first, " one grey?"], ["Yes."], ["This:", second, " and this:", third,
            " differ?"]]  # fmt: skip
    parts = [
        [
            {"type": "text", "text": each}
            if isinstance(each, str)
            else {"type": "image", "image": Image.fromarray(each)}
            for each in contents
        ]
        for contents in said
    ]
    roles = ("user", "assistant", "user")
    return [{"role": role, "content": part} for role, part in zip(roles, parts, strict=True)]


@pytest.mark.parametrize("name", CHATTING)
def test_images_among_words_equal_transformers(name, model, checkpoint, pictures):
    """The text and its usage are those of a template that gets images and words in that order."""
    expected = generated(checkpoint(name), [among_words_written_out(*pictures)])
    image, params = among_words(*pictures)
    answers = model(name).predict([image], [params])
    assert [(each.text, each.usage.prompt_tokens) for each in answers] == expected
    [before] = model(name).predict([image], [replace(params, image_places=())])
    assert before.text != answers[0].text


@pytest.mark.parametrize("name", CHATTING)
def test_a_turn_has_its_own_images(name, model, pictures):
    """The same images in the same order are other tokens where other turns show them."""
    loaded = model(name)
    first, second, third = pictures
    image, params = conversation(first, second, third)
    [turn] = params.history
    moved = replace(
        params,
        history=(replace(turn, images=(encoded(second),)),),
        images=(encoded(third),),
    )
    last = replace(params, image_turn=1, images=(encoded(third),))
    last = replace(last, history=(replace(turn, images=(encoded(first),)),))

    def prepared(image, params):
        images = loaded._images.read(image, params)
        return loaded._prompt_processor.tensors(images, params, params.prompt)

    usual, other, same = prepared(image, params), prepared(image, moved), prepared(second, last)
    assert usual["input_ids"].tolist() != other["input_ids"].tolist()
    assert usual.keys() == same.keys()
    assert all(usual[key].equal(same[key]) for key in usual)
    *pieces, streamed = loaded.stream(image, params)
    assert ("".join(pieces), streamed) == (streamed.text, *loaded.predict([image], [params]))


@pytest.mark.parametrize("name", SINGLE)
def test_a_model_that_reads_one_image(name, model, pictures):
    """It says so, with the number that it got, rather than read the first."""
    image, params = conversation(*pictures)
    with pytest.raises(InvalidParams) as refused:
        model(name).predict([image], [params])
    told = "params.images: this model reads one image a request, got 3"
    assert refused.value.detail == told


FIRST_ONLY = (
    "{% for m in messages %}{{ m['role'] }}: {% for c in m['content'] %}"
    "{% if c['type'] == 'text' %}{{ c['text'] }}{% elif loop.first %}<image>{% endif %}"
    "{% endfor %} {% endfor %}assistant:"
)
ALL_AT_THE_BEGINNING = (
    "{% for m in messages %}{% for c in m['content'] if c['type'] == 'image' %}<image>{% endfor %}"
    "{% endfor %}{% for m in messages %}{{ m['role'] }}: "
    "{% for c in m['content'] if c['type'] == 'text' %}{{ c['text'] }}{% endfor %} {% endfor %}"
)


@pytest.mark.parametrize("template", [FIRST_ONLY, ALL_AT_THE_BEGINNING])
def test_a_template_that_shows_them_elsewhere(
    template, checkpoint, session_context, pictures, tmp_path
):
    """One that drops images of a turn, or shows them in another turn, is refused for several."""
    path = shutil.copytree(checkpoint("llava"), tmp_path / "llava")
    (path / "chat_template.jinja").write_text(template)
    loaded = vlm.load(ModelSpec("tiny/llava", "vlm", "hf", path), session_context)
    image, params = conversation(*pictures)
    [turn] = params.history
    assert loaded.predict([image], [replace(params, images=())])[0].text
    with pytest.raises(InvalidParams, match=r"^params\.images: this model reads one image a req"):
        loaded.predict([image], [params])
    if template is ALL_AT_THE_BEGINNING:
        with pytest.raises(InvalidParams, match=r"^params\.history: "):
            loaded.predict([image], [replace(params, images=(), image_turn=1)])
        later = replace(turn, images=(params.images[0],))
        with pytest.raises(InvalidParams, match=r"^params\.images: "):
            loaded.predict([image], [replace(params, images=(), history=(turn, later))])


def test_limits(model, checkpoint, session_context, pictures):
    """How many there are and what they have together are limits of the plugin's settings."""
    image, params = conversation(*pictures)

    def ask(**settings):
        context = dataclasses.replace(session_context, settings=Settings(**settings))
        spec = ModelSpec("tiny/qwen3_vl", "vlm", "hf", checkpoint("qwen3_vl"))
        return vlm.load(spec, context).predict([image], [params])

    pixels = sum(height * width for height, width in SIZES)
    usual = model("qwen3_vl").predict([image], [params])
    assert ask(max_images=3, max_images_pixels=pixels) == usual
    with pytest.raises(InvalidParams, match=r"^params\.images: at most 2 images .*, got 3$"):
        ask(max_images=2)
    told = rf"^params\.images\[1\]: the images up to this one have {pixels} pixels, .* {pixels - 1}"
    with pytest.raises(BadRequest, match=told):
        ask(max_images_pixels=pixels - 1)


def test_what_is_wrong_with_an_image_names_it(model, pictures):
    """A further image that cannot be read, or is too narrow, is told by its place."""
    image, params = conversation(*pictures)
    [turn] = params.history
    narrow = encoded(np.zeros((1, 4000, 3), np.uint8))
    for wrong, told in ((b"no image", ""), (narrow, "an image of 4000x1 pixels is too small")):
        for changed, field in (
            ({"images": (params.images[0], wrong)}, "params.images[1]"),
            ({"history": (turn, replace(turn, images=(wrong,)))}, "params.history[1].images[0]"),
        ):
            with pytest.raises(BadRequest) as refused:
                model("qwen3_vl").predict([image], [replace(params, **changed)])
            assert refused.value.detail.startswith(f"{field}: {told}")
    with pytest.raises(BadRequest) as refused:
        model("qwen3_vl").predict([np.zeros((1, 4000, 3), np.uint8)], [params])
    assert refused.value.detail.startswith("an image of 4000x1 pixels is too small")
    with pytest.raises(InvalidParams, match=r"^params\.output_mode: 'detect' needs a single image"):
        model("qwen3_vl").predict([image], [replace(params, output_mode="detect")])


def test_an_image_at_fault_is_found_by_preparing_each_once_more(model, picture, monkeypatch):
    """A conversation of many images has a bound on their pixels, which an error keeps to."""
    loaded = model("qwen3_vl")
    kind = type(loaded._prompt_processor._processor.image_processor)
    prepare, prepared = kind.preprocess, []

    def counted(self, images, *args, **options):
        prepared.extend(image.height * image.width for image in images)
        return prepare(self, images, *args, **options)

    monkeypatch.setattr(kind, "preprocess", counted)
    usual, narrow = picture(120, 90), np.zeros((1, 4000, 3), np.uint8)
    images = (*[encoded(usual)] * 8, encoded(narrow))
    with pytest.raises(BadRequest, match=r"^params\.images\[8\]: an image of 4000x1 pixels is"):
        loaded.predict([usual], [VlmParams(prompt="Which?", images=images)])
    *shown, known_good = prepared
    assert shown == [*[120 * 90] * 9, 4000] * 2
    assert known_good == 300 * 400


def test_the_form_of_images():
    """They are base64 where JSON is sent; a turn of an image alone needs no words."""
    sent = {"prompt": "?", "images": ["aGk="], "image_turn": 1,
            "history": [{"prompt": "", "answer": "x", "images": ["eW91"]}]}  # fmt: skip
    params = convert(sent, VlmParams)
    params.check()
    assert list(params.pictures()) == [
        ("params.history[0].images[0]", b"you"),
        ("image", None),
        ("params.images[0]", b"hi"),
    ]
    for wrong in (["!"], [""], "aGk="):
        with pytest.raises(ValueError, match="images"):
            convert({**sent, "images": wrong}, VlmParams)
