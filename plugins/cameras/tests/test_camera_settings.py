"""Where the settings of cameras stand: the plugin's place, and the names that they had."""

from __future__ import annotations

import msgspec
import pytest
import yaml

from markdown_pages import ROOT, quoted, rows
from mataserver import ConfigError, MataError, config, plugins, testing
from mataserver_cameras.settings import CameraSettings, Settings

DOOR = "{name: door, source: /srv/shelf.mp4, model: m}"


@pytest.fixture
def read(tmp_path):
    """Read a configuration; return the settings of cameras."""

    def reading(yaml="", variables=None):
        (tmp_path / "mataserver.yaml").write_text(yaml)
        settings = config.load(environ={}, directory=tmp_path)
        [plugin] = plugins.discover(settings, testing.installed("cameras"), variables or {}).found
        return plugin.settings

    return reading


def test_the_plugins_own_place(read, caplog):
    """Without settings nothing is read, nothing may be named; the new names warn of nothing."""
    assert (read().cameras, read().camera_hosts, read().camera_paths) == ([], [], [])
    found = read(f"plugins: {{cameras: {{cameras: [{DOOR}], camera_hosts: [cam.local]}}}}")
    assert [camera.name for camera in found.cameras] == ["door"]
    assert found.camera_hosts == ["cam.local"]
    assert not caplog.records


def test_the_servers_old_settings_go_on(read, caplog):
    """All four old names count as the plugin's, each with a warning that names the new place."""
    found = read(
        f"cameras: [{DOOR}]\ncamera_hosts: [cam.local]\ncamera_paths: [/srv]\ncamera_timeout: 3\n"
    )
    assert found.cameras[0].source == "/srv/shelf.mp4"
    assert (found.camera_hosts, found.camera_paths) == (["cam.local"], ["/srv"])
    assert found.camera_timeout == 3.0
    for name in ("cameras", "camera_hosts", "camera_paths", "camera_timeout"):
        assert f"{name} is called plugins.cameras.{name} now" in caplog.text


def test_variables_win(read):
    """The variables are those that they were, lists with commas, and are checked like the file."""
    variables = {
        "MATA_SERVER_CAMERA_HOSTS": "cam.local, 10.0.0.0/8",
        "MATA_SERVER_CAMERA_PATHS": "/srv,/dev/video0",
        "MATA_SERVER_CAMERA_TIMEOUT": "2.5",
    }
    found = read("camera_hosts: [other]", variables)
    assert found.camera_hosts == ["cam.local", "10.0.0.0/8"]
    assert found.camera_paths == ["/srv", "/dev/video0"]
    assert found.camera_timeout == 2.5
    for name, text in (("PATHS", "videos"), ("TIMEOUT", "0")):
        with pytest.raises(MataError, match=f"MATA_SERVER_CAMERA_{name}"):
            read(variables={f"MATA_SERVER_CAMERA_{name}": text})


def test_a_setting_in_both_places_is_refused(read):
    """Of two lists neither wins in silence."""
    with pytest.raises(ConfigError, match="cameras: given twice"):
        read(f"cameras: [{DOOR}]\nplugins: {{cameras: {{cameras: [{DOOR}]}}}}")


@pytest.mark.parametrize(
    ("kind", "header", "column"),
    [(Settings, "setting of cameras", 3), (CameraSettings, "of a camera", 2)],
)
def test_settings_are_described(kind, header, column):
    """Every setting has a line with its default, and every line is a setting."""
    text = (ROOT / "plugins" / "cameras" / "README.md").read_text()
    described = {quoted(row[0]): yaml.safe_load(quoted(row[column])) for row in rows(text, header)}
    fields = msgspec.structs.fields(kind)
    assert described == {field.name: default_of(field) for field in fields}


def default_of(field):
    """Return a setting's default, or "required"."""
    if field.default_factory is not msgspec.NODEFAULT:
        return field.default_factory()
    return "required" if field.default is msgspec.NODEFAULT else field.default
