"""Settings of plugins: decoded, named by their path, and refused where nobody takes them."""

from __future__ import annotations

import pytest

from markdown_pages import ROOT
from mataserver.config import ConfigError, Settings
from mataserver.plugins import discover, discovery
from plugin_sources import (
    HOOKS,
    given,
    plugin_fixture,  # noqa: F401 - fixtures
)


def test_settings_are_those_of_the_struct_when_none_are_given(plugin):
    """A plugin gets the defaults of its own struct."""
    assert discover(Settings(), [plugin(HOOKS)]).found[0].settings.size == 3


NAMED = """
from typing import Annotated
from msgspec import Meta, Struct
from mataserver import hookimpl

class Named(Struct, frozen=True, forbid_unknown_fields=True):
    size: Annotated[int, Meta(gt=0, extra={"environment": "MINE_SIZE"})] = 3

@hookimpl
def settings():
    return Named
"""


def test_a_plugins_setting_may_name_a_variable(plugin):
    """The variable wins over the configuration; where it is not set the configuration counts."""

    def size(environ):
        return discover(given(mine={"size": 5}), [plugin(NAMED)], environ).found[0].settings.size

    assert [size({"MINE_SIZE": "7"}), size({"OTHER": "7"})] == [7, 5]
    with pytest.raises(ConfigError, match="environment: MINE_SIZE: expected `int` >= 1"):
        size({"MINE_SIZE": "0"})


def test_a_misspelt_setting_names_its_path(plugin):
    """A key that the plugin does not know stops the start."""
    with pytest.raises(ConfigError, match=r"plugins\.mine\.sise: unknown key"):
        discover(given(mine={"sise": 5}), [plugin(HOOKS)])


def test_a_setting_of_the_wrong_type_names_its_path(plugin):
    """A value that the plugin cannot take stops the start."""
    with pytest.raises(ConfigError, match=r"plugins\.mine\.size: expected `int`"):
        discover(given(mine={"size": "big"}), [plugin(HOOKS)])


def test_settings_of_an_unknown_plugin_are_refused(plugin):
    """A section for a plugin that is not installed stops the start."""
    with pytest.raises(ConfigError, match=r"plugins\.yours: no such plugin is installed"):
        discover(given(yours={}), [plugin(HOOKS)])
    with pytest.raises(ConfigError, match=r"plugins\.cameras: .*: pip install mataserver-cameras"):
        discover(given(cameras={}), [plugin(HOOKS)])


def test_the_projects_plugins_are_known_by_name():
    """Each distribution here that takes settings is named where it is missing."""
    taking = {
        place.parts[-2]
        for place in (ROOT / "plugins").glob("*/pyproject.toml")
        for source in place.parent.glob("mataserver_*/*.py")
        if "@hookimpl\ndef settings(" in source.read_text()
    }
    assert taking == discovery._PROJECT_PLUGINS


def test_settings_of_a_plugin_without_settings_are_refused(plugin):
    """A section for a plugin that declares no settings stops the start."""
    source = "@hookimpl\ndef backends(): return [backend()]"
    with pytest.raises(ConfigError, match=r"plugins\.mine: it takes no settings"):
        discover(given(mine={"size": 1}), [plugin(source)])


def test_settings_of_a_broken_plugin_are_left_alone(plugin):
    """A plugin that cannot be imported keeps its section without stopping the start."""
    found = discover(given(mine={"size": 5}), [plugin("raise RuntimeError")])
    assert found.found[0].error.startswith("RuntimeError (plugin_under_test_")


SHARED = """
from typing import ClassVar

class Shared(Struct, frozen=True, forbid_unknown_fields=True):
    section: ClassVar[str] = "{}"
    depth: int = 1

@hookimpl
def settings():
    return Shared
"""


def test_a_section_is_the_plugins_or_its_distributions(plugin):
    """A plugin takes no settings that are called like another's; its own name is allowed."""
    (own,) = discover(given(mine={"depth": 2}), [plugin(SHARED.format("mine"))]).found
    assert (own.section, own.settings.depth) == ("mine", 2)
    (other,) = discover(given(), [plugin(SHARED.format("others"))]).found
    assert other.error == "settings(): section must be 'mine'"
