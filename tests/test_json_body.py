"""What a body of JSON may cost, counted in what is outside of its long texts."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from msgspec import UNSET, Struct, UnsetType

from mataserver.errors import BadRequest, InvalidParams, TooLarge
from mataserver.http import json_body

MOST = json_body.MAX_STRUCTURE_BYTES
LONG = "x" * json_body.MIN_LONG_STRING


class Options(Struct):
    depth: int = 3
    name: str | None = "n"


class Body(Struct):
    model: str
    image: str = ""
    options: Options = msgspec.field(default_factory=Options)
    params: dict[str, Any] | None = None


FLOODS = {
    "objects": b'{"model":"m","params":{"a":[%b{}]}}' % (b"{}," * MOST),
    "lists": b'{"model":"m","params":{"a":[%b[]]}}' % (b"[]," * MOST),
    "numbers": b'{"model":"m","params":{"a":[%b1]}}' % (b"1," * MOST),
    "short texts": b'{"model":"m","params":{"a":[%b""]}}' % (b'"ab",' * MOST),
    "escaped texts": b'{"model":"m","params":{"a":[%b""]}}' % (b'"\\"\\\\",' * MOST),
    "what is skipped": b'{"model":"m","more":[%b{}]}' % (b"{}," * MOST),
    "behind an escape": b'{"model":"\\"","params":[%b{}]}' % (b"{}," * MOST),
    "behind backslashes": b'{"model":"\\\\","params":[%b{}]}' % (b"{}," * MOST),
    "spaces": b'{"model":"m"%b}' % (b" " * MOST),
    "one text of quotation marks": b'{"model":"%b"}' % (b'\\"' * 2 * MOST),
    "within an open text": b'{"model":"m","a":[%b' % (b'{"b":"c"},' * MOST),
}


@pytest.mark.parametrize("name", FLOODS)
def test_what_makes_many_objects_is_refused_before_it_is_built(name):
    """However a body is made of short pieces: over the limit it is 413, and nothing was built."""
    with pytest.raises(TooLarge, match=f"over {MOST} bytes beside its images and long texts"):
        json_body.decode(FLOODS[name], Body)


@pytest.mark.parametrize(
    "image", ["A" * 3 * MOST, "\\u00e9" * MOST, "ü" * MOST, "\\\\" * MOST, LONG + '\\"' * 1000]
)
def test_one_long_text_may_be_of_any_size(image):
    """An image beside few other bytes is decoded, whatever characters the text is made of."""
    text = f'{{"model":"m","image":"{image}","params":{{"a":[1,"\\"",{{}}]}}}}'
    found = json_body.decode(text.encode(), Body)
    assert (found.image, found.params) == (json.loads(f'"{image}"'), {"a": [1, '"', {}]})


def test_many_long_texts_may_be_of_any_size():
    """Texts that are long enough to be worth their objects do not count, however many they are."""
    texts = [LONG] * 200
    found = json_body.decode(json.dumps({"model": "m", "params": {"a": texts}}).encode(), Body)
    assert found.params == {"a": texts}


def test_the_limit_is_exact():
    """A body of just the limit is decoded, one byte more is not."""
    head, text = b'{"model":"m","image":', b'"%b"' % LONG.encode()
    spaces = b" " * (MOST - len(head) - 1)
    assert json_body.decode(head + text + spaces + b"}", Body).image == LONG
    with pytest.raises(TooLarge):
        json_body.decode(head + text + spaces + b" }", Body)


@pytest.mark.parametrize(
    "given",
    [
        {"model": "m", "options": None},
        {"model": "m", "image": None, "params": None},
        {"model": "m", "options": {"depth": None}},
    ],
)
def test_null_is_as_if_it_were_not_there(given):
    """A field that has a default takes it for null, at every depth."""
    assert json_body.decode(json.dumps(given).encode(), Body) == Body("m")


def test_null_keeps_its_meaning_where_it_has_one():
    """Where null is a value of the field it stays one."""
    given = b'{"model":"m","options":{"name":null}}'
    assert json_body.decode(given, Body).options.name is None


class Change(Struct):
    """What is left out of it stays; null takes ``rate`` away."""

    rate: int | UnsetType | None = UNSET
    name: str | UnsetType = UNSET


class Limits(Struct):
    """Two numbers, of which one may be written as 60.0."""

    rate: int | UnsetType | None = UNSET
    quota: int | UnsetType | None = UNSET


@pytest.mark.parametrize("other", [{"name": None}, {"quota": None}, {"name": "n"}])
def test_null_keeps_its_meaning_beside_another(other):
    """Also where another field may not be null, or a number is written as 5.0."""
    given = {"rate": None, **other}
    assert json_body.decode(json.dumps(given).encode(), Change).rate is None
    assert json_body.convert(given, Change).rate is None
    assert json_body.decode(b'{"rate":5.0,"name":null}', Change) == Change(rate=5)
    limits = json_body.decode(b'{"rate":null,"quota":60.0}', Limits)
    assert limits == Limits(rate=None, quota=60)


def test_null_for_what_is_required():
    """A required field that is null is missing."""
    with pytest.raises(InvalidParams, match=r"^model: field is required$"):
        json_body.decode(b'{"model":null}', Body)


@pytest.mark.parametrize(
    "data",
    [b"", b"{", b'{"model":null', b"[" * 99_999, b'{"model":"\xff"}', b'{"model":1,"a":NaN}'],
)
def test_what_is_no_json(data):
    """What is no JSON, perhaps only behind what is of no type, is a bad request."""
    with pytest.raises(BadRequest, match="not valid JSON"):
        json_body.decode(data, Body)


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ({"model": "m", "options": {"depth": None, "name": "x"}}, Options(name="x")),
        ({"model": "m", "options": {"depth": 5}}, Options(5)),
        ({"model": "m", "options": None}, Options()),
    ],
)
def test_what_is_decoded_is_converted_alike(value, found):
    """Null stands for what is not given where it is nothing itself, as in a body."""
    assert json_body.convert(value, Body).options == found


@pytest.mark.parametrize("text", ["5.0", "5e0", "0.5e1", "50.0e-1"])
def test_an_integer_may_have_a_point(text):
    """JSON Schema knows no difference between 5.0 and 5, so clients write either."""
    given = f'{{"model":"m","options":{{"depth":{text},"name":null}},"params":{{"a":2.5}}}}'
    assert json_body.decode(given.encode(), Body).options == Options(5)
    assert json_body.convert(json.loads(given), Body).options == Options(5)


class Inner(msgspec.Struct):
    """A struct within a body."""

    value: int = 0
    note: Any = None


class Loose(msgspec.Struct):
    """A body with integers in many places, and with fields of any type."""

    count: int | None = None
    sides: list[int] = []
    named: dict[str, Inner] = {}
    dotted: int = msgspec.field(default=0, name="a.b")
    note: Any = None
    raw: msgspec.Raw = msgspec.Raw(b"")


def both(given: dict[str, Any]) -> list[Loose]:
    """Return a body that was decoded, and one that was converted."""
    bodies = [json_body.decode(json.dumps(given).encode(), Loose)]
    return bodies if "raw" in given else [*bodies, json_body.convert(given, Loose)]


def test_only_integers_lose_their_point():
    """A value whose type the body does not say stays as it is, whatever stands beside it."""
    given = {
        "count": 5.0,
        "a.b": 4.0,
        "sides": [1, 2.0, 3.0],
        "named": {"x.y": {"value": 6.0, "note": 7.0}, "z": {"value": 8.0}},
        "note": {"v": 2.0, "image": "A" * 10_000},
    }
    for body in both(given):
        assert (body.count, body.dotted, body.sides) == (5, 4, [1, 2, 3])
        assert body.named == {"x.y": Inner(6, 7.0), "z": Inner(8)}
        assert type(body.named["x.y"].note) is type(body.note["v"]) is float
        assert body.note == given["note"]
    (body,) = both({"count": 5.0, "raw": {"v": 2.0}})
    assert bytes(body.raw) == b'{"v":2.0}'


def test_many_integers_with_points():
    """A long list is not read once for each of them; a fraction among them is told."""
    numbers = [float(number) for number in range(20_000)]
    for body in both({"count": 5.0, "sides": numbers, "note": 2.0}):
        assert body.sides == list(range(20_000))
        assert type(body.note) is float
    with pytest.raises(InvalidParams, match=r"^sides\[19999\]: expected `int`, got `float`"):
        both({"sides": [*numbers[:-1], 0.5]})


@pytest.mark.parametrize("text", ["5.5", "1e300", "9007199254740993.0", '"5.0"'])
def test_what_is_no_integer_is_none(text):
    """A fraction, and what a float cannot hold exactly, are refused as before."""
    given = f'{{"model":"m","options":{{"depth":{text}}}}}'
    with pytest.raises(InvalidParams, match=r"^options\.depth: expected `int`"):
        json_body.decode(given.encode(), Body)
    with pytest.raises(InvalidParams, match=r"^options\.depth: expected `int`"):
        json_body.convert(json.loads(given), Body)


def test_what_cannot_be_converted_is_named():
    """A wrong value, and one that is missing because it is null, are told by their field."""
    with pytest.raises(InvalidParams, match=r"^options\.depth: expected `int`"):
        json_body.convert({"model": "m", "options": {"depth": "x"}}, Body)
    with pytest.raises(InvalidParams, match=r"^model: field is required"):
        json_body.convert({"model": None}, Body)


@pytest.mark.parametrize("wrap", [lambda value: [value], lambda value: {"a": value}])
def test_what_is_nested_too_deeply_is_refused(wrap):
    """A value that a decoder still reads, and that cannot be walked through, is the client's."""
    value: Any = None
    for _ in range(3_000):
        value = wrap(value)
    with pytest.raises(BadRequest, match="The body is nested too deeply"):
        json_body.convert({"params": {"a": value}}, Body)
