"""Settings that went to a plugin: their old names go on, with a warning."""

from __future__ import annotations

import sys

import pytest

from mataserver import config, plugins, testing
from mataserver.config import ConfigError

PLUGIN = """
from msgspec import Struct
from mataserver import hookimpl

class Settings(Struct, frozen=True, forbid_unknown_fields=True):
    port: int = 0

@hookimpl
def settings():
    return Settings
"""


@pytest.fixture
def read(tmp_path, monkeypatch):
    """Read a configuration where a distribution has taken ``rpc_port`` over, and what it says."""
    site = tmp_path / "site"
    info = site / "caller-1.0.dist-info"
    info.mkdir(parents=True)
    (site / "caller.py").write_text(PLUGIN)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: caller\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[mataserver]\ncaller = caller\n[mataserver.settings]\nrpc_port = caller:port\n"
    )
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.delitem(sys.modules, "caller", raising=False)

    def settings(yaml):
        (tmp_path / "mataserver.yaml").write_text(yaml)
        found = config.load(environ={}, directory=tmp_path)
        (plugin,) = plugins.discover(found, testing.installed("caller"), {}).found
        return plugin.settings

    return settings


def test_an_old_name_is_the_new_one(read, caplog):
    """What stands under the old name reaches the plugin, and the log says what it is called."""
    assert read("rpc_port: 7\n").port == 7
    assert "rpc_port is called plugins.caller.port now" in caplog.text
    assert read("rpc_port: 8\nplugins: {disabled: []}\n").port == 8


def test_the_new_name_warns_of_nothing(read, caplog):
    """Who has moved hears nothing."""
    assert read("plugins: {caller: {port: 9}}\n").port == 9
    assert "called" not in caplog.text


@pytest.mark.parametrize(
    ("yaml", "said"),
    [
        ("rpc_port: 7\nplugins: {caller: {port: 8}}\n", "rpc_port: given twice"),
        ("rpc_port: x\n", "plugins.caller.port: expected `int`"),
        ("rpc_prot: 7\n", "rpc_prot: unknown key"),
        ("rpc_port: 7\nplugins: 5\n", "rpc_port: unknown key|plugins: expected `object`"),
    ],
)
def test_what_is_wrong_is_told(read, yaml, said):
    """A wrong value is told by its new name; two values, and a name that nobody has, by theirs."""
    with pytest.raises(ConfigError, match=said):
        read(yaml)
