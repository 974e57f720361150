"""What is wrong with a value is told in words: no regular expression is shown to people."""

from __future__ import annotations

import ast
from typing import Annotated

import msgspec
import pytest
from msgspec import Meta, Struct

import house_shape
from mataserver.config import ConfigError, reading
from mataserver.params.wording import describe

Letter = Annotated[str, Meta(pattern=r"^[a-z]\Z", description="a letter from a to z")]


class Words(Struct):
    one: Letter = "a"
    named: dict[Letter, Letter] = {}
    several: list[Letter | None] = []
    twice: tuple[Letter, int] = ("a", 1)
    inside: Words | None = None
    bare: Annotated[str, Meta(pattern="^x$")] = "x"


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"one": "B"}, "one: expected a letter from a to z"),
        ({"named": {"a": "B"}}, "named[...]: expected a letter from a to z"),
        ({"several": ["a", "B"]}, "several[1]: expected a letter from a to z"),
        ({"twice": ["B", 1]}, "twice[0]: expected a letter from a to z"),
        ({"inside": {"one": "B"}}, "inside.one: expected a letter from a to z"),
        ({"bare": "y"}, "bare: expected `str` matching regex '^x$'"),
    ],
)
def test_a_text_of_another_form(given, told):
    """The description beside the pattern is what is told, wherever in a type the text stands."""
    with pytest.raises(msgspec.ValidationError) as raised:
        msgspec.convert(given, Words)
    assert describe(raised.value, "", Words) == told


def test_a_wrong_key_of_a_mapping():
    """Also where the key is what is wrong."""
    with pytest.raises(msgspec.ValidationError) as raised:
        msgspec.convert({"named": {"B": "a"}}, Words)
    told = describe(raised.value, "", Words)
    assert "a letter from a to z" in told
    assert "regex" not in told


def test_a_setting_of_another_form(tmp_path):
    """As everybody meets it: in the configuration."""
    file = tmp_path / "mataserver.yaml"
    file.write_text("device: gpu\n")
    with pytest.raises(ConfigError) as raised:
        reading.load(file, environ={})
    assert raised.value.detail == "configuration: device: expected auto, cpu, cuda or cuda:N"


def test_every_pattern_is_told_in_words():
    """Each pattern of the core, the plugins and the client has a description beside it."""
    patterns, mute = 0, []
    for path in house_shape.everything():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("Meta"):
                given = {keyword.arg for keyword in node.keywords}
                patterns += "pattern" in given
                if "pattern" in given and "description" not in given:
                    mute.append(f"{path}:{node.lineno}")
    assert patterns > 30
    assert mute == []


class Opaque(Struct):
    """A type without a schema."""

    one: Letter = "a"
    rest: msgspec.Raw = msgspec.Raw(b"null")


def test_a_type_without_a_schema():
    """The library's own sentence is told, and no error of ours stands in its place."""
    with pytest.raises(msgspec.ValidationError) as raised:
        msgspec.convert({"one": "A"}, Opaque)
    assert describe(raised.value, "", Opaque).startswith("one: expected")
