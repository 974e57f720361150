"""Parameters: parsing, defaults, texts to values, prompts, and what no client can make it raise."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mataserver import Backend, ModelSpec
from mataserver.config import ModelSettings
from mataserver.errors import BadRequest, InvalidParams
from mataserver.library.plans import ModelPlan
from mataserver.params import parsing, wording
from mataserver.params.table import OLD_NAMES, UPLOAD_FIELDS, ApiParams, Confidence, Params

FAST = settings(max_examples=100, deadline=None, derandomize=True, database=None)


class Own(Params, frozen=True, kw_only=True):
    """A backend's parameters: three of the table and two of its own."""

    confidence: Confidence = 0.5
    prompts: list[str] = msgspec.field(default_factory=list)
    top_k: int = 5
    tiles: int = 1
    flip: bool = False


class Needy(Params, frozen=True, kw_only=True):
    """A backend that cannot do without a prompt."""

    prompt: str


def refusal(given, kind=Own, parse=parsing.parse, **rules) -> str:
    """Return the detail of parameters that must be refused."""
    with pytest.raises(InvalidParams) as caught:
        parse(given, kind, **rules)
    assert caught.value.status == 422
    return caught.value.detail


# parse


def test_an_integer_may_have_a_point():
    """A client whose numbers are all floating point sends 5.0 for 5, in lists too."""
    made = parsing.parse({"top_k": 3.0, "tiles": 4.0, "target_size": [480.0, 640.0]}, Own)
    assert made == Own(top_k=3, tiles=4)
    assert type(made.top_k) is type(made.tiles) is int
    assert "params.detail: " in refusal({"detail": 2.0})
    assert parsing.parse({"detail": 1.0}, Own) == Own()
    assert refusal({"tiles": 4.5}) == "params.tiles: expected `int`, got `float`"


def test_what_is_nested_too_deeply_beside_such_an_integer_is_refused():
    """No walk through a value ends the request with an error of the server."""

    class Loose(Params, frozen=True):
        """A backend with a parameter of any type."""

        tiles: int = 1
        notes: Any = None

    deep = None
    for _ in range(3_000):
        deep = [deep]
    with pytest.raises(BadRequest, match="nested too deeply"):
        parsing.parse({"tiles": 4.0, "notes": deep}, Loose)


def test_nothing_gives_the_backends_defaults():
    """An empty object is the struct's own defaults."""
    assert parsing.parse({}, Own) == Own()


def test_table_fields_and_own_fields_arrive():
    """Both kinds of parameters reach the struct, whole numbers as floats where they are floats."""
    made = parsing.parse({"confidence": 1, "top_k": 3, "tiles": 4, "flip": True}, Own)
    assert made == Own(confidence=1.0, top_k=3, tiles=4, flip=True)
    assert isinstance(made.confidence, float)


def test_fields_of_the_table_that_it_lacks_are_dropped():
    """A parameter of another task is checked and dropped."""
    assert parsing.parse({"prompt": "x", "normalize": True, "detail": 1}, Own) == Own()
    assert refusal({"normalize": 1}).startswith("params.normalize")


def test_own_fields_are_strict():
    """A backend's own parameters have types too."""
    assert refusal({"tiles": "4"}) == "params.tiles: expected `int`, got `str`"
    assert refusal({"flip": 1}) == "params.flip: expected `bool`, got `int`"


@pytest.mark.parametrize(("old", "new"), OLD_NAMES.items())
def test_old_names_name_their_successor(old, new):
    """The detail is the sentence that the documents show."""
    assert refusal({old: 1}) == f"params.{old}: unknown parameter; use '{new}'"


def test_unknown_names_are_cut():
    """A long name is not sent back whole."""
    assert refusal({"x" * 1000: 1}) == f"params.{'x' * 64}: unknown parameter"


def test_a_required_parameter_is_named():
    """A parameter without a default that is missing is 422."""
    assert refusal({}, Needy) == "params.prompt: field is required"
    assert parsing.parse({"prompt": "?"}, Needy).prompt == "?"


def test_defaults_of_the_configuration():
    """They stand behind the request and before the backend; those of other tasks do nothing."""
    defaults = {"confidence": 0.1, "tiles": 2, "prompt": "not ours"}
    assert parsing.parse({}, Own, defaults=defaults) == Own(confidence=0.1, tiles=2)
    assert parsing.parse({"tiles": 3}, Own, defaults=defaults) == Own(confidence=0.1, tiles=3)


def test_prompts_of_the_configuration_are_split_too():
    """A default may be written as a request would write it."""
    assert parsing.parse({}, Own, defaults={"prompts": "cat . dog"}).prompts == ["cat", "dog"]


def test_defaults_are_checked_at_the_start():
    """check_defaults refuses what a request could not send."""
    parsing.check_defaults({"confidence": 0.1, "prompt": "x"}, Own)
    for wrong in ({"threshold": 0.1}, {"confidence": 2}, {"foo": 1}, {"tiles": "two"}):
        with pytest.raises(InvalidParams):
            parsing.check_defaults(wrong, Own)


def test_defaults_of_a_part_are_checked_too():
    """A model that is a part of itself takes the params of both structs, each by its own type."""

    class Whole(Params, frozen=True):
        pace: int = 1

    parsing.check_defaults({"pace": 2, "tiles": 3, "confidence": 0.1}, Whole, Own)
    for wrong in ({"pace": "x"}, {"tiles": "x"}, {"foo": 1}):
        with pytest.raises(InvalidParams, match=next(iter(wrong))):
            parsing.check_defaults(wrong, Whole, Own)


def test_configured_params_are_those_of_the_backend():
    """Of a model's params in the configuration a backend gets its own; prompts become a list."""
    given = {"confidence": 0.1, "prompts": "cat . dog", "prompt": "no"}
    assert parsing.configured(given, Own) == {"confidence": 0.1, "prompts": ["cat", "dog"]}


def test_the_ceiling_of_max_tokens_holds_where_it_is_dropped():
    """The server's maximum is part of the range."""
    assert parsing.parse({"max_tokens": 100}, Own, max_tokens=100) == Own()
    assert "at most 100" in refusal({"max_tokens": 101}, max_tokens=100)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", ["confidence", "temperature", "top_p", "detection_confidence"])
def test_numbers_must_be_finite(name, value):
    """NaN is in no range, whichever way it came."""
    assert refusal({name: value}).startswith(f"params.{name}: ")


def test_prompts_of_points_and_boxes_must_be_finite():
    """Coordinates are finite, labels 0 or 1, boxes not empty; the index is named."""
    assert refusal({"point_prompts": [[1, 1, 1], [math.nan, 0, 1]]}).startswith(
        "params.point_prompts[1]"
    )
    assert refusal({"box_prompts": [[0, 0, math.inf, 1]]}).startswith("params.box_prompts[0]")
    assert "label must be 0 or 1" in refusal({"point_prompts": [[1, 1, 2]]})


# prompts


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("cat", ["cat"]),
        ("cat . dog . person", ["cat", "dog", "person"]),
        ("cat.dog.", ["cat", "dog"]),
        (" cat .. dog . . ", ["cat", "dog"]),
        ("red car, parked . dog", ["red car, parked", "dog"]),
        ("a 2.5 m pole . dog", ["a 2.5 m pole", "dog"]),
        ("version 2. dog", ["version 2", "dog"]),
        ("no .5 here", ["no", "5 here"]),
        (["a . b", " c ", ""], ["a . b", " c "]),
    ],
)
def test_prompts_are_split_at_dots(text, expected):
    """Strings are split at dots but not inside numbers and never at commas; lists are kept."""
    assert parsing.split_prompts(text) == expected


@pytest.mark.parametrize("value", ["", " ", ". . .", [], ["", " "]])
def test_no_prompt_at_all_is_refused(value):
    """At least one prompt must be left where prompts are used."""
    assert refusal({"prompts": value}) == "params.prompts: at least one prompt is needed"


def test_too_many_prompts_are_refused():
    """There is a limit to how many prompts one request may have."""
    assert "at most 256" in refusal({"prompts": ["x"] * 257})
    assert len(parsing.parse({"prompts": ["x"] * 256}, Own).prompts) == 256


# texts


def test_texts_become_values():
    """A form's texts are converted by the types of the table and of the backend."""
    made = parsing.parse_text(
        {"confidence": "0.25", "top_k": "7", "tiles": "2", "flip": "true"}, Own
    )
    assert made == Own(confidence=0.25, top_k=7, tiles=2, flip=True)


def test_texts_of_prompts_are_split():
    """A form's prompts are dot-separated."""
    assert parsing.parse_text({"prompts": "cat . dog"}, Own).prompts == ["cat", "dog"]


def test_a_list_of_prompts_in_a_form():
    """A list in JSON is the list, not one prompt with brackets in it; what is none is refused."""
    listed = parsing.parse_text({"prompts": ' ["a red car", "2.5 m. pole"]'}, Own).prompts
    assert listed == ["a red car", "2.5 m. pole"]
    for text in ('["cat", 1]', "[cat, dog]", '["cat"'):
        assert refusal({"prompts": text}, parse=parsing.parse_text).startswith("prompts: write")


@pytest.mark.parametrize("name", sorted(set(ApiParams.__struct_fields__) - UPLOAD_FIELDS))
def test_complex_fields_are_for_json(name):
    """Nine parameters cannot be told in a form."""
    said = refusal({name: "1"}, parse=parsing.parse_text)
    assert said == f"{name}: only the JSON endpoint takes this parameter"


@pytest.mark.parametrize(
    ("text", "number"),
    [(".8", 0.8), ("1.", 1.0), ("+0.5", 0.5), (" 0.5", 0.5), ("1e-1", 0.1), ("00.5", 0.5)],
)
def test_numbers_as_people_write_them(text, number):
    """A number may lack digits beside its point; a query's plus sign arrives as a space."""
    assert parsing.parse_text({"confidence": text}, Own).confidence == number


def test_whole_numbers_as_people_write_them():
    """The same holds for whole numbers; a text that looks like one stays as it is."""
    made = parsing.parse_text({"top_k": "+07", "prompts": "+.5"}, Own)
    assert (made.top_k, made.prompts) == (7, ["+", "5"])
    assert refusal({"confidence": "+1.5"}, parse=parsing.parse_text) == (
        "confidence: expected `float` <= 1.0"
    )


@pytest.mark.parametrize(
    "text", [".", "+", ".e1", "nan", "inf", "-Infinity", "1e999", " ", "0.5 ", "½", "1,0"]
)
def test_texts_that_are_no_number(text):
    """Nothing but a finite number in range is one."""
    assert refusal({"confidence": text}, parse=parsing.parse_text).startswith("confidence: ")


# messages


class Inner(msgspec.Struct, forbid_unknown_fields=True):
    """A struct inside another."""

    size: int = 0


class Outer(msgspec.Struct, forbid_unknown_fields=True):
    """A struct with another inside."""

    inner: list[Inner] = []
    name: str = ""


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"inner": [{"size": "x"}]}, "root.inner[0].size: expected `int`, got `str`"),
        ({"inner": [{}, {"sice": 1}]}, "root.inner[1].sice: unknown key"),
        ({"k" * 500: 1}, f"root.{'k' * 64}: unknown key"),
        ([], "root: expected `object`, got `array`"),
        ({"name": 1}, "root.name: expected `str`, got `int`"),
    ],
)
def test_messages_name_the_path(value, said):
    """Msgspec's message becomes path, colon, sentence."""
    with pytest.raises(msgspec.ValidationError) as caught:
        msgspec.convert(value, Outer)
    assert wording.describe(caught.value, "root") == said
    assert wording.describe(caught.value, "") == said.removeprefix("root").lstrip(".:").strip()


def test_params_must_be_an_object_with_string_names():
    """check_object takes a mapping or nothing."""
    assert parsing.check_object(None) == {}
    assert parsing.check_object({"a": 1}) == {"a": 1}
    with pytest.raises(InvalidParams, match="expected `object`, got `list`"):
        parsing.check_object([])
    with pytest.raises(BadRequest):
        parsing.check_object({1: 1})


# whatever a client sends

NAMES = st.sampled_from([*ApiParams.__struct_fields__, "tiles", "flip"])
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@FAST
@given(given_=st.dictionaries(NAMES | st.text(max_size=10), VALUES, max_size=4))
def test_any_json_object_is_parsed_or_refused(given_):
    """Every decoded JSON object gives a struct in range, or InvalidParams in one short sentence."""
    try:
        made = parsing.parse(given_, Own, max_tokens=100)
    except InvalidParams as error:
        detail = error.detail
    else:
        detail = "params."
        assert 0 <= made.confidence <= 1
        assert all(isinstance(prompt, str) and prompt for prompt in made.prompts)
    assert detail.startswith("params.")
    assert len(detail) < 400


@FAST
@given(given_=st.dictionaries(NAMES | st.text(max_size=10), st.text(max_size=30), max_size=4))
def test_any_form_is_parsed_or_refused(given_):
    """Every form gives a struct in range, or InvalidParams."""
    try:
        made = parsing.parse_text(given_, Own)
    except InvalidParams:
        return
    assert 0 <= made.confidence <= 1
    assert set(given_) <= {*UPLOAD_FIELDS, "tiles", "flip"}


@FAST
@given(text=st.text(alphabet="ab 1.,-"))
def test_splitting_loses_nothing_but_dots(text):
    """Split prompts hold every letter of the text, no empty one, no space at their ends."""
    try:
        prompts = parsing.split_prompts(text)
    except InvalidParams:
        prompts = []
    assert all(prompt == prompt.strip() and prompt for prompt in prompts)
    letters = [c for c in text if c not in ". "]
    assert [c for prompt in prompts for c in prompt if c not in ". "] == letters


def recipe_of(kind, **defaults) -> ModelPlan:
    """Return the plan of a model of a backend that takes ``kind``, and what is configured."""
    backend = Backend(name="own", task="detect", source="pip", load=print, params=kind)
    settings = ModelSettings(model="own", params=defaults)
    return ModelPlan(ModelSpec("own", "detect", "pip"), backend, "own", None, settings, 0)


class Fixed(Params, frozen=True, kw_only=True):
    """A backend's parameters that nobody can change."""

    confidence: Confidence = 0.5
    max_tokens: int = 9_000


def test_what_says_nothing_gets_the_same_and_what_says_something_its_own():
    """Parameters that are kept for requests without any are no other request's."""
    plan = recipe_of(Fixed, confidence=0.25)
    first = plan.params({}, 10_000)
    assert plan.params(None, 10_000) is first
    assert first.confidence == 0.25
    assert plan.params({"confidence": 0.75}, 10_000).confidence == 0.75
    assert plan.params({"confidence": "0.75"}, 10_000, text=True).confidence == 0.75
    assert plan.params({}, 10_000) == first
    assert recipe_of(Fixed).params({}, 10_000).confidence == 0.5
    with pytest.raises(InvalidParams):
        recipe_of(Needy).params({}, 10_000)


def test_a_list_of_parameters_is_not_shared():
    """What whoever gets parameters could change is made anew for each request."""
    plan = recipe_of(Own)
    plan.params({}, 10_000).prompts.append("cat")
    assert plan.params({}, 10_000).prompts == []
