"""Names of plugins, and what they bring to each other: each is one plugin's."""

from __future__ import annotations

import pytest

from mataserver.config import Settings
from mataserver.plugins import Plugin, discover
from plugin_sources import (
    HOOKS,
    names,
    plugin_fixture,  # noqa: F401 - fixtures
)


def test_two_plugins_of_one_name(plugin):
    """The second of a name is refused, the first stays in use."""
    other = plugin("@hookimpl\ndef backends(): return [backend(name='other')]")
    found = discover(Settings(), [plugin(HOOKS), other])
    assert [each.error for each in found.found] == [None, "the name 'mine' is taken"]
    assert names(found) == ["any"]


def test_which_of_two_distributions_comes_first():
    """The same at each start, also if their names differ by the prefix of this project alone."""
    one, other = Plugin("mine", distribution="mataserver-x"), Plugin("mine", distribution="x")
    for given in ([one, other], [other, one]):
        assert sorted(given, key=lambda each: each.sort_key) == [one, other]


def test_a_plugin_cannot_be_called_strict(plugin):
    """``plugins.strict`` is a setting, so the name is taken."""
    found = discover(Settings(), [plugin(HOOKS, name="strict")])
    assert found.found[0].error == "the name 'strict' is that of a setting"


def test_two_plugins_with_one_backend_name(plugin):
    """The second plugin is refused; the first one's name is told, and how to be rid of it."""
    points = [plugin(HOOKS, name="a"), plugin(HOOKS, name="b")]
    found = discover(Settings(), points)
    told = (
        "backend any: the plugin a has one of that name; plugins.disabled: [a] turns that one off"
    )
    assert found.found[1].error == told
    assert names(found) == ["any"]
    again = discover(Settings(plugins={"disabled": ["a"]}), points)
    assert [each.plugin.name for each in again.provided] == ["b"]


BRINGS = """
@hookimpl
def brings():
    return {"work": ["dig", "fill"]}
"""


def test_what_two_plugins_bring_to_a_third_one(plugin):
    """The second of a name is refused before any service is made, with its backends."""
    second = BRINGS.replace('"dig", "fill"', '"fill"') + HOOKS
    found = discover(Settings(), [plugin(BRINGS, name="a"), plugin(second, name="b")])
    assert [each.error for each in found.found] == [None, "'fill' is provided to work by a already"]
    assert names(found) == []


def test_whose_names_they_are_comes_first(plugin):
    """A plugin's own names are not taken from it by one that is called before it."""
    points = [plugin(BRINGS, name="a"), plugin(BRINGS, name="work"), plugin(HOOKS, name="z")]
    found = discover(Settings(), points)
    told = "'dig' is provided to work by work already"
    assert [each.error for each in found.found] == [told, None, None]


@pytest.mark.parametrize(
    "wrong", ["{'work': [3]}", "{'work': ['']}", "{'work': 'dig'}", "{3: ['dig']}", "['dig']", "3"]
)
def test_what_is_brought_must_be_names(plugin, wrong):
    """Anything but names by names puts the plugin out of use, and no other."""
    source = f"@hookimpl\ndef brings(): return {wrong}"
    found = discover(Settings(), [plugin(source, name="a"), plugin(HOOKS, name="b")])
    assert found.found[0].error is not None
    assert found.found[1].error is None


def test_one_plugin_with_one_backend_name_twice(plugin):
    """A plugin that gives a name twice is refused as a whole."""
    found = discover(Settings(), [plugin("@hookimpl\ndef backends(): return [backend()] * 2")])
    assert found.found[0].error == "backend any: the plugin mine has one of that name"
    assert names(found) == []
