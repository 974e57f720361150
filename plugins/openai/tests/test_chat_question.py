"""Chat completions as they are read: a conversation about images."""

from __future__ import annotations

import base64
import json

import pytest

from mataserver import BadRequest
from mataserver_openai import completion_request, conversation
from mataserver_openai.problem import chat_problem

URI = "data:image/png;base64," + base64.b64encode(b"pixels").decode()
IMAGE = {"type": "image_url", "image_url": {"url": URI, "detail": "high"}}
MESSAGES = [{"role": "user", "content": [{"type": "text", "text": "what?"}, IMAGE]}]


def read(**fields):
    """Read a body of those fields."""
    return completion_request.read(
        json.dumps({"model": "m", "messages": MESSAGES, **fields}).encode()
    )


def test_a_question():
    """The image is decoded; what is left out is left to the server."""
    assert read() == completion_request.CompletionRequest(
        "m",
        b"pixels",
        {"prompt": "what?", "image_places": [5]},
        fields={"": "messages[0].content[1].image_url.url"},
    )


def test_null_is_left_out():
    """A field that is null is as if it were not there."""
    names = {*completion_request.ChatRequest.__struct_fields__, *completion_request.NEUTRAL} - {
        "model",
        "messages",
    }
    assert read(**dict.fromkeys(names)) == read()


def test_every_option():
    """Options under their own names, those of the model among them."""
    asked = read(
        max_completion_tokens=7,
        temperature=1,
        top_p=0.5,
        seed=3,
        stop="x",
        stream=True,
        stream_options={"include_usage": True},
        top_k=4,
        user="u",
    )
    params = {"prompt": "what?", "image_places": [5], "max_tokens": 7, "temperature": 1.0,
              "top_p": 0.5, "top_k": 4}  # fmt: skip
    where = "messages[0].content[1].image_url.url"
    expected = completion_request.CompletionRequest(
        "m", b"pixels", params, 3, ("x",), stream=True, usage=True, fields={"": where}
    )
    assert asked == expected


@pytest.mark.parametrize("name", sorted(completion_request.NEUTRAL))
def test_what_is_not_served_is_refused_by_name(name):
    """Each field that no model serves is accepted where it asks for nothing, else refused."""
    for neutral in completion_request.NEUTRAL[name]:
        assert read(**{name: neutral}) == read()
    for value in ({"a": 1}, ["b"], True, 7):
        with pytest.raises(BadRequest, match=rf"^{name}: not supported"):
            read(**{name: value})


@pytest.mark.parametrize("name", sorted(completion_request.IGNORED_FIELDS))
def test_what_changes_no_answer_is_passed_over(name):
    """Fields for OpenAI's own bookkeeping have no effect."""
    assert read(**{name: "x"}) == read()


def with_user(message=None, text=None, image=None, url=None):
    """Return the usual messages with further fields in the user's, in its parts or in the image."""
    picture = {**IMAGE, "image_url": {**IMAGE["image_url"], **(url or {})}, **(image or {})}
    question = {"type": "text", "text": "what?", **(text or {})}
    return [{"role": "user", "content": [question, picture], **(message or {})}]


def test_names_and_hints_for_a_cache_are_passed_over():
    """A message's name, and what only another provider's cache reads, change no answer."""
    hints = {
        "cache_control": {"type": "ephemeral"},
        "prompt_cache_breakpoint": {"mode": "explicit"},
    }
    of_message = {"name": "Ada", "cache_control": {"type": "ephemeral"}}
    assert read(messages=with_user(of_message, hints, hints)) == read()


@pytest.mark.parametrize(
    ("fields", "where"),
    [
        ({"stream": True, "stream_options": {"include_usag": True}}, "stream_options.include_usag"),
        ({"messages": with_user({"contents": "x"})}, "messages[0].contents"),
        ({"messages": with_user({"audio": {"id": "x"}})}, "messages[0].audio"),
        ({"messages": with_user(text={"txt": "x"})}, "messages[0].content[0].txt"),
        ({"messages": with_user(image={"max_pixels": 9})}, "messages[0].content[1].max_pixels"),
        (
            {"messages": with_user(url={"maxPixels": 9})},
            "messages[0].content[1].image_url.maxPixels",
        ),
    ],
)
def test_what_an_object_within_does_not_have_is_refused(fields, where):
    """At every level: a misspelt field, or one of another server, is not ignored in silence."""
    with pytest.raises(BadRequest) as refused:
        read(**fields)
    assert refused.value.detail.startswith(f"{where}: unknown key")
    assert chat_problem(400, refused.value.detail).error.param == where


def test_null_within_is_left_out():
    """Clients that write out every field they know send null in what they do not use."""
    nulls = {"tool_calls": None, "refusal": None, "name": None}
    within = with_user(nulls, {"image_url": None}, {"text": None}, {"detail": None, "format": None})
    options = {"include_usage": None, "other": None}
    assert read(messages=within, stream=True, stream_options=options) == read(stream=True)


def said(role, text):
    return {"role": role, "content": text}


def test_a_conversation():
    """Earlier turns are the history; clients write out what they know of an answer."""
    answer = {**said("assistant", "A cat."), "refusal": None, "annotations": [], "tool_calls": []}
    asked = read(messages=[said("system", "Be brief."), *MESSAGES, answer, said("user", "Sure?")])
    assert asked.params == {
        "system_prompt": "Be brief.",
        "history": [{"prompt": "what?", "answer": "A cat.", "image_places": [5]}],
        "prompt": "Sure?",
    }
    assert asked.fields == {"": "messages[1].content[1].image_url.url"}


def test_an_image_in_a_later_turn():
    """The turn that shows it is told, the last one too; messages of one role are one text."""
    hello = [said("user", "Hello"), said("user", "there"), said("assistant", "Hi"),
             said("assistant", [{"type": "text", "text": "you"}])]  # fmt: skip
    assert read(messages=[*hello, *MESSAGES]).params == {
        "history": [{"prompt": "Hello\nthere", "answer": "Hi\nyou"}],
        "image_turn": 1,
        "prompt": "what?",
        "image_places": [5],
    }
    between = read(messages=[*hello, *MESSAGES, said("assistant", None), said("user", "And?")])
    assert between.params["image_turn"] == 1
    shown = {"prompt": "what?", "answer": "", "image_places": [5]}
    assert between.params["history"][1] == shown


def test_images_in_several_turns():
    """The first is the inference's own; each of the others is in its turn, with its field."""
    first, second, third, fourth = (
        {"type": "image_url", "image_url": {"url": URI.replace("cGl4ZWxz", data)}}
        for data in ("Zmlyc3Q=", "c2Vjb25k", "dGhpcmQ=", "Zm91cnRo")
    )
    asked = read(
        messages=[
            said("user", "Hello"),
            said("assistant", "Hi"),
            {"role": "user", "content": [first, {"type": "text", "text": "These?"}, second]},
            said("assistant", "Cats."),
            {"role": "user", "content": [third]},
            said("user", "And this?"),
            {"role": "user", "content": [{"type": "text", "text": "Or this?"}, fourth]},
        ]
    )
    assert asked.image == b"first"
    assert asked.params == {
        "history": [
            {"prompt": "Hello", "answer": "Hi"},
            {
                "prompt": "These?",
                "answer": "Cats.",
                "images": [b"second"],
                "image_places": [0, 6],
            },
        ],
        "image_turn": 1,
        "prompt": "And this?\nOr this?",
        "images": [b"third", b"fourth"],
        "image_places": [0, 18],
    }
    assert asked.fields == {
        "": "messages[2].content[0].image_url.url",
        "params.history[1].images[0]": "messages[2].content[2].image_url.url",
        "params.images[0]": "messages[4].content[0].image_url.url",
        "params.images[1]": "messages[6].content[1].image_url.url",
    }


def words(text):
    return {"type": "text", "text": text}


IN_PLACE = (
    # the contents of a user's messages; the question, its places, and that without places
    ([[words("Here: "), IMAGE, words(" what?")]], "Here:  what?", [6], "Here: \n what?"),
    ([[words("a"), IMAGE, words("b"), IMAGE]], "ab", [1, 2], "a\nb"),
    ([[IMAGE, words("a"), IMAGE, IMAGE, words("b")]], "ab", [0, 1, 1], "a\nb"),
    ([[words("a"), words("b"), IMAGE, words("c"), words("d")]], "a\nbc\nd", [3], "a\nb\nc\nd"),
    (["a", [IMAGE, words("b")]], "a\nb", [2], "a\nb"),
    (["a", [IMAGE], "b"], "a\n\nb", [2], "a\n\nb"),
    ([[words("a"), IMAGE], "b"], "a\nb", [1], "a\n\nb"),
    ([[IMAGE, IMAGE], "a", "b"], "a\nb", None, "a\nb"),
    ([[words("\U0001f408"), IMAGE, words("é")]], "\U0001f408é", [1], "\U0001f408\né"),
)


@pytest.mark.parametrize(("contents", "prompt", "places", "without"), IN_PLACE)
@pytest.mark.parametrize("is_last", [True, False])
def test_images_stay_among_the_words(contents, prompt, places, without, is_last):
    """Of the last question and of an earlier one; a model without places gets lines of words."""
    messages = [said("user", each) for each in contents]
    if not is_last:
        messages += [said("assistant", "A cat."), said("user", "Sure?")]
    params = read(messages=messages).params
    plain = conversation.without_places(params)
    asked, left = (params, plain) if is_last else (params["history"][0], plain["history"][0])
    assert (asked["prompt"], asked.get("image_places")) == (prompt, places)
    assert left == {**{k: v for k, v in asked.items() if k != "image_places"}, "prompt": without}


@pytest.mark.parametrize(
    ("messages", "where"),
    [
        ([said("assistant", "Hi"), *MESSAGES], "messages[0].role: a conversation begins"),
        ([*MESSAGES, said("assistant", "A cat")], "messages[1].role: the last question has an"),
        ([said("user", "Hello")], "messages: a model answers about images: send at least one"),
        ([*MESSAGES, said("assistant", [IMAGE]), *MESSAGES], "messages[1].content: only a user"),
        ([*MESSAGES, {"role": "tool", "tool_call_id": "x"}], "messages[1].role: 'tool': not"),
        ([*MESSAGES, said("function", "x")], "messages[1].role: 'function': not supported"),
        (
            [*MESSAGES, {**said("assistant", None), "tool_calls": [{"id": "x"}]}],
            "messages[1].tool_calls: not supported",
        ),
        (
            [*MESSAGES, {**said("assistant", None), "function_call": {"name": "x"}}],
            "messages[1].function_call: not supported",
        ),
    ],
)
def test_what_is_no_conversation_about_an_image(messages, where):
    """Each is refused by the message that is wrong."""
    with pytest.raises(BadRequest) as refused:
        read(messages=messages)
    assert refused.value.detail.startswith(where)


@pytest.mark.parametrize(
    "name", ["prompt", "system_prompt", "history", "image_turn", "images", "image_places"]
)
def test_what_the_messages_say_is_not_given_twice(name):
    """A parameter that is taken from the messages is no field of its own."""
    with pytest.raises(BadRequest, match=rf"^{name}: unknown field"):
        read(**{name: "x"})


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"1", b'{"model": "\xff"}', b"[" * 9_999])
def test_what_is_no_object(body):
    """A body that is no JSON object is refused."""
    with pytest.raises(BadRequest, match="body"):
        completion_request.read(body)


def test_a_model_without_a_name():
    """The missing field is named."""
    with pytest.raises(BadRequest, match=r"^model: field is required"):
        completion_request.read(json.dumps({"messages": MESSAGES}).encode())
