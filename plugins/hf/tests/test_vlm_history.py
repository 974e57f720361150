"""Conversations with vision-language models."""

from __future__ import annotations

import shutil

import pytest
from msgspec import convert
from msgspec.structs import replace

from mataserver import InvalidParams, ModelSpec
from mataserver_hf import vlm
from mataserver_hf.prompt_formats import chat_prompt
from mataserver_hf.vlm_params import MAX_HISTORY, Turn, VlmParams

CHATTING = sorted(vlm.FAMILIES - {"paligemma", "florence2"})
TURNS = (Turn("What is this?", "A cat."), Turn("Which colour?", "Grey, I think."))
ASKED = VlmParams(prompt="Sure?", system_prompt="Be brief.", history=TURNS, max_tokens=8)


def expected_text(processor, params, shown):
    """Format a conversation by the chat template, as its documentation writes one."""
    said = [("system", params.system_prompt)] if params.system_prompt else []
    for turn in params.history:
        said += [("user", turn.prompt), ("assistant", turn.answer)]
    said.append(("user", params.prompt))
    messages = [
        {"role": role, "content": [{"type": "text", "text": text}]} for role, text in said if role
    ]
    users = [each for each in messages if each["role"] == "user"]
    users[shown]["content"].insert(0, {"type": "image"})
    return processor.tokenizer.apply_chat_template(
        messages,
        chat_template=processor.chat_template,
        add_generation_prompt=True,
        tokenize=False,
    )


@pytest.mark.parametrize("name", CHATTING)
@pytest.mark.parametrize("shown", [0, 1, 2])
def test_the_template_formats_every_turn(name, shown, model, picture):
    """The tokens are those of the template's text, with the image's in the turn that shows it."""
    prompts = model(name)._prompt_processor
    processor, image = prompts._processor, picture(90, 150)

    def written(params):
        [ids] = prompts.tensors([image], params, params.prompt)["input_ids"]
        return processor.tokenizer.decode(ids, clean_up_tokenization_spaces=False)

    single = replace(ASKED, history=())
    before, after = expected_text(processor, single, 0).split(processor.image_token)
    pixels = written(single).removeprefix(before).removesuffix(after)
    whole = expected_text(processor, ASKED, shown)
    assert written(replace(ASKED, image_turn=shown)) == whole.replace(processor.image_token, pixels)


@pytest.mark.parametrize("name", CHATTING)
def test_earlier_turns_change_the_answer(name, model, picture):
    """What was said before is read: the answer and the count of tokens are others."""
    image, loaded = picture(90, 150), model(name)
    [alone] = loaded.predict([image], [replace(ASKED, history=())])
    [later] = loaded.predict([image], [ASKED])
    assert later.text != alone.text
    assert later.usage.prompt_tokens > alone.usage.prompt_tokens + 40
    *pieces, streamed = loaded.stream(image, ASKED)
    assert ("".join(pieces), streamed) == (later.text, later)
    asked = loaded._prompt_processor.tensors([image], ASKED, ASKED.prompt)["input_ids"]
    assert later.usage.prompt_tokens == asked.shape[1]


def test_the_image_alone_is_a_question(model, picture):
    """The turn that shows the image needs no words; the layout of a mode is asked for last."""
    loaded, image = model("qwen3_vl"), picture(90, 150)
    history = (Turn("", "A cat."),)
    [plain] = loaded.predict([image], [replace(ASKED, history=history)])
    [moded] = loaded.predict([image], [replace(ASKED, history=history, output_mode="json")])
    assert plain.usage.prompt_tokens < moded.usage.prompt_tokens


SILENT = (
    [Turn("What?", "")],
    [Turn("What?", ""), Turn("Which colour?", "")],
    [Turn("", ""), Turn("What?", "A cat."), Turn("Which?", "")],
    [Turn(" ", " "), Turn("What?", "\n")],
)
"""Conversations with empty answers, as clients send them of an answer that was stopped."""


@pytest.mark.parametrize("name", CHATTING)
@pytest.mark.parametrize("turns", SILENT)
def test_an_empty_answer_is_an_answer(name, turns, model, picture):
    """It is written as the template writes one, and what follows it stands in its own turn."""
    prompts = model(name)._prompt_processor
    asked = replace(ASKED, history=tuple(turns))
    text = expected_text(prompts._processor, asked, 0)
    assert chat_prompt(prompts._processor, asked, asked.prompt) == text
    [answer] = model(name).predict([picture(40, 40)], [asked])
    [ids] = prompts.tensors([picture(40, 40)], asked, asked.prompt)["input_ids"]
    assert answer.usage.prompt_tokens == len(ids)


@pytest.mark.parametrize(
    ("beginning", "field"),
    [
        ("{% set messages = messages[:1] + messages[-1:] %}", "history"),
        ("{% set messages = messages|reject('equalto', messages[2])|list %}", "history"),
        ("{% set messages = messages|rejectattr('role', 'equalto', 'system')|list %}", "system_p"),
    ],
)
def test_a_template_that_leaves_out_more_than_an_empty_answer(
    beginning, field, checkpoint, session_context, picture, tmp_path
):
    """What an empty answer does not say is no excuse for the rest of the conversation."""
    path = shutil.copytree(checkpoint("llava"), tmp_path / "llava")
    template = path / "chat_template.jinja"
    template.write_text(beginning + template.read_text())
    loaded = vlm.load(ModelSpec("tiny/llava", "vlm", "hf", path), session_context)
    with pytest.raises(InvalidParams, match=rf"^params\.{field}"):
        loaded.predict([picture(40, 40)], [replace(ASKED, history=(Turn("What?", ""),))])


@pytest.mark.parametrize("name", ["paligemma", "florence2"])
def test_a_model_without_a_conversation(name, model, picture):
    """What was trained on single questions refuses a history rather than ignore it."""
    with pytest.raises(InvalidParams, match=r"^params\.history: this model takes no such"):
        model(name).predict([picture(40, 40)], [replace(ASKED, system_prompt="")])


@pytest.mark.parametrize(
    "beginning",
    [
        "{% if messages|length > 2 %}{{ raise_exception('one question only') }}{% endif %}",
        "{% set messages = messages[:1] + messages[-1:] %}",
        "{% set messages = messages|reject('equalto', messages[2])|list %}",
        "{% set messages = messages|rejectattr('role', 'equalto', 'assistant')|list %}",
    ],
)
def test_a_template_that_does_not_hold_it(
    beginning, checkpoint, session_context, picture, tmp_path
):
    """A chat template that refuses or drops what was said before makes it a 422."""
    path = shutil.copytree(checkpoint("llava"), tmp_path / "llava")
    template = path / "chat_template.jinja"
    template.write_text(beginning + template.read_text())
    loaded = vlm.load(ModelSpec("tiny/llava", "vlm", "hf", path), session_context)
    image = picture(40, 40)
    [alone] = loaded.predict([image], [replace(ASKED, history=())])
    assert alone.text
    with pytest.raises(InvalidParams, match=r"^params\.history: "):
        loaded.predict([image], [ASKED])


def test_a_template_that_refuses_the_system_prompt_is_not_blamed_on_the_history(
    checkpoint, session_context, picture, tmp_path
):
    """The error names the part that is at fault, with a history too."""
    path = shutil.copytree(checkpoint("llava"), tmp_path / "llava")
    template = path / "chat_template.jinja"
    refusing = "{% if messages[0].role == 'system' %}{{ raise_exception('no') }}{% endif %}"
    template.write_text(refusing + template.read_text())
    loaded = vlm.load(ModelSpec("tiny/llava", "vlm", "hf", path), session_context)
    [answered] = loaded.predict([picture(40, 40)], [replace(ASKED, system_prompt="")])
    assert answered.text
    with pytest.raises(InvalidParams, match=r"^params\.system_prompt: "):
        loaded.predict([picture(40, 40)], [ASKED])


@pytest.mark.parametrize(
    ("prefix", "suffix"), [("<think>A cat? A dog?</think>", ""), ("", "  \n"), ("\n ", "")]
)
def test_what_templates_may_leave_out(
    prefix, suffix, checkpoint, session_context, picture, tmp_path
):
    """Thoughts and outer spaces may be dropped from earlier answers, as published ones do."""
    path = shutil.copytree(checkpoint("llava"), tmp_path / "llava")
    template = path / "chat_template.jinja"
    template.write_text(
        template.read_text().replace("c['text']", "(c['text'].split('</think>')|last).strip()")
    )
    loaded = vlm.load(ModelSpec("tiny/llava", "vlm", "hf", path), session_context)
    spoken = (Turn("What is this?", f"{prefix}A cat.{suffix}"),)
    plain = replace(ASKED, history=(Turn("What is this?", "A cat."),))
    image = picture(40, 40)
    assert loaded.predict([image], [replace(ASKED, history=spoken)]) == loaded.predict(
        [image], [plain]
    )


def test_a_template_may_rewrite_what_is_said(checkpoint, session_context, picture, tmp_path):
    """Joined lines and other cases are the template's business; nothing is left out."""
    path = shutil.copytree(checkpoint("llava"), tmp_path / "llava")
    template = path / "chat_template.jinja"
    joined = "(c['text'].split('\\n')|join(' ')|capitalize)"
    template.write_text(template.read_text().replace("c['text']", joined))
    loaded = vlm.load(ModelSpec("tiny/llava", "vlm", "hf", path), session_context)
    lines = replace(
        ASKED, prompt="are\nYou SURE?", history=(Turn("what\nis\nthis?", "a GREY\ncat."),)
    )
    plain = replace(ASKED, prompt="Are you sure?", history=(Turn("What is this?", "A grey cat."),))
    image = picture(40, 40)
    assert loaded.predict([image], [lines]) == loaded.predict([image], [plain])


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"image_turn": 3}, "params.image_turn: must be at most 2"),
        ({"history": (), "image_turn": 1}, "params.image_turn: must be at most 0"),
        ({"image_turn": 1, "history": (Turn(" ", "x"),)}, "params.history[0].prompt: must not be"),
        (
            {"history": (Turn("What?", "<image>"),)},
            "params.history[0].answer: must not contain <image>",
        ),
        (
            {"history": (Turn("<image>", "x"),)},
            "params.history[0].prompt: must not contain <image>",
        ),
        ({"history": (Turn("What?", "x" * MAX_HISTORY),)}, "params.history: at most 1048576 char"),
        ({"history": (Turn("What?", "x" * 9_000),)}, "params.prompt: image and prompt take"),
    ],
)
def test_what_is_no_history(changes, told, model, picture):
    """Each is refused by the name of what is wrong."""
    with pytest.raises(InvalidParams) as refused:
        model("llava").predict([picture(40, 40)], [replace(ASKED, **changes)])
    assert refused.value.detail.startswith(told)


def test_the_form_of_a_history():
    """As it is sent: objects; what they do not have is refused."""
    sent = {"prompt": "Sure?", "history": [{"prompt": "What?", "answer": "A cat."}]}
    assert convert(sent, VlmParams).history == (Turn("What?", "A cat."),)
    for wrong in ([{"prompt": "What?"}], [["What?", "x"]], [{**sent["history"][0], "image": 1}]):
        with pytest.raises(ValueError, match="history"):
            convert({**sent, "history": wrong}, VlmParams)
