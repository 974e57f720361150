"""Where gRPC listens: the plugin's setting, and the names that it had."""

from __future__ import annotations

import sys

import pytest

import mataserver_oip
from mataserver import MataError, config, plugins, testing
from mataserver_oip.settings import Settings


@pytest.fixture
def port(tmp_path):
    """Read a configuration; return the port of gRPC."""

    def read(yaml="", variables=None):
        (tmp_path / "mataserver.yaml").write_text(yaml)
        settings = config.load(environ={}, directory=tmp_path)
        [plugin] = plugins.discover(settings, testing.installed("oip"), variables or {}).found
        return plugin.settings.grpc_port

    return read


def test_it_is_turned_off_unless_it_is_asked_for(port, caplog):
    """No setting is no gRPC; the plugin's own warns of nothing."""
    assert port() is None
    assert port("plugins: {oip: {grpc_port: 8001}}") == 8001
    assert not caplog.records


@pytest.mark.parametrize("module", ["grpc", "google.protobuf"])
def test_check_names_the_package_that_grpc_needs(monkeypatch, module):
    """``mataserver check`` tells what would stop the start; without gRPC nothing is needed."""
    assert list(mataserver_oip.check(Settings(grpc_port=0), None)) == []
    monkeypatch.setitem(sys.modules, module, None)
    said = "grpc_port needs a package: pip install 'mataserver-oip[grpc]'"
    assert list(mataserver_oip.check(Settings(grpc_port=0), None)) == [said]
    assert list(mataserver_oip.check(Settings(), None)) == []


def test_the_servers_old_setting_goes_on(port, caplog):
    """``grpc_port`` of the configuration is the plugin's, with a warning that names the new one."""
    assert port("grpc_port: 8001") == 8001
    assert "grpc_port is called plugins.oip.grpc_port now" in caplog.text


def test_the_variable_wins(port):
    """``MATA_SERVER_GRPC_PORT`` counts over the file, and is checked like it."""
    assert port("grpc_port: 8001", {"MATA_SERVER_GRPC_PORT": "8002"}) == 8002
    with pytest.raises(MataError, match="MATA_SERVER_GRPC_PORT"):
        port(variables={"MATA_SERVER_GRPC_PORT": "many"})
