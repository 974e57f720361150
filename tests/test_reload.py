"""SIGHUP: the configuration is read again while the server runs."""

from __future__ import annotations

import contextlib
import json
import logging
import signal
import urllib.request

import aiohttp
import pytest

from api_answers import until
from camera_peers import POINTS
from cli_terminal import Terminal, said, serving
from conftest import FAKES, picture, register
from mataserver import config, testing
from mataserver.app.maintenance import MaintenanceIntervals
from mataserver.app.reload import Reload
from plugin_sources import plugin_fixture  # noqa: F401 - the fixture "plugin"
from service_plugins import PREAMBLE


def filming(*cameras):
    """Return the settings of a server that reads these cameras."""
    return {"plugins": {"cameras": {"cameras": list(cameras)}}}


class Running:
    """A server whose configuration can be read again; ``settings`` is what is then found."""

    def __init__(self, served, http, folder):
        self.http = http
        self.composed = served.composed
        self._folder = folder

    async def reload(self, **settings):
        """Read a configuration of these settings."""
        values = {"data_dir": str(self._folder), "api_keys": ["test-key"], "port": 0} | settings

        def load():
            return config.read(environ={}, directory=self._folder, engine="thread", **values)

        await Reload(self.composed, load).run()

    async def found(self, model):
        """Return the detections of a picture."""
        headers = {"Content-Type": "image/png"}
        async with self.http.post(
            f"/v1/infer?model={model}", data=picture(), headers=headers
        ) as response:
            return len((await response.json())["detections"])

    async def model_state(self, model):
        """Return the state of a model."""
        async with self.http.get(f"/v1/models/{model}") as response:
            return (await response.json())["state"]


@contextlib.asynccontextmanager
async def running(folder, points=POINTS, **settings):
    """Run a server with every fake model."""
    register(folder, {f"fake-{task}": task for task in FAKES})
    async with (
        testing.serving(
            folder,
            entry_points=points,
            engine="thread",
            pace=MaintenanceIntervals(retry=30.0),
            **settings,
        ) as served,
        aiohttp.ClientSession(served.url, headers=served.headers) as http,
    ):
        yield Running(served, http, folder)


def entry(model, **fields):
    """Return an entry of ``models:``."""
    return {"model": model, **fields}


async def test_parameters_of_a_model_change(tmp_path):
    """What a model's entry says holds from the next request on, and until it is taken away."""
    async with running(tmp_path) as server:
        assert await server.found("fake-detect") == 1
        await server.reload(models=[entry("fake-detect", params={"confidence": 0.1})])
        assert await server.found("fake-detect") == 2
        await server.reload(models=[])
        assert await server.found("fake-detect") == 1


async def test_a_model_is_preloaded_and_others_are_left_alone(tmp_path):
    """A model that is to be preloaded is loaded at once; one whose entry is the same stays."""
    async with running(tmp_path, models=[entry("fake-detect", preload=True)]) as server:
        await until(lambda: server.composed.pool.status("fake-detect", "detect").loaded_at)
        before = server.composed.pool.status("fake-detect", "detect").loaded_at
        both = [entry("fake-detect", preload=True), entry("fake-ocr", preload=True)]
        await server.reload(models=both)
        await until(lambda: server.composed.pool.status("fake-ocr", "ocr").loaded_at)
        assert server.composed.pool.status("fake-detect", "detect").loaded_at == before
        await server.reload(models=both[:1])
        assert await server.model_state("fake-ocr") == "unloaded"


async def test_a_path_is_registered(tmp_path):
    """A model that the configuration names for the first time is registered."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "config.json").write_text('{"model_type": "fake"}')
    async with running(tmp_path) as server:
        await server.reload(models=[entry("mine", task="detect", path=str(tmp_path / "mine"))])
        assert await server.found("mine") == 1
        async with server.http.get("/ready") as response:
            assert response.status == 200


def names(server):
    """Return the ids of the sessions that have a camera, which are the cameras' names."""
    return sorted(s.id for s in server.composed.sessions.all() if s.camera is not None)


async def test_cameras_come_go_and_change(tmp_path, video, caplog):
    """Cameras are opened, closed and opened anew; one whose entry is the same stays open."""
    caplog.set_level(logging.INFO)
    door = {"name": "door", "source": str(video), "model": "fake-detect"}
    shelf = {**door, "name": "shelf"}
    async with running(tmp_path, **filming(door)) as server:
        await until(lambda: names(server) == ["door"])
        kept = server.composed.sessions.get("door")
        await server.reload(**filming(door, shelf))
        await until(lambda: names(server) == ["door", "shelf"])
        assert server.composed.sessions.get("door") is kept
        assert "read again; changed plugins: cameras" in caplog.text
        await server.reload(**filming(door, shelf))
        assert "read again; changed nothing" in caplog.text
        await server.reload(**filming({**door, "fps": 5.0}))
        await until(lambda: names(server) == ["door"])
        await until(lambda: server.composed.sessions.all()[0].camera.fps == 5.0)
        await server.reload(**filming())
        await until(lambda: names(server) == [])
        async with server.http.get("/ready") as response:
            assert response.status == 200


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"models": [{"modell": "x"}]}, "models[0].modell: unknown key; did you mean model?"),
        ({"models": [entry("fake-detect", task="ocr")]}, "it is registered for detect, not ocr"),
        ({"models": [entry("fake-ocr", params={"confidence": 2.0})]}, "params.confidence"),
        (
            {"models": [entry("fake-ocr", engine="nicer")]},
            "models[0].engine: unknown engine 'nicer': one of auto, process, thread",
        ),
        (
            filming({"name": "a", "source": "ftp://x", "model": "fake-detect"}),
            "cameras[0]: source: expected rtsp://",
        ),
        # What the next start would refuse, though it would take effect only then:
        ({"plugins": {"jobs": {"slots": "two"}}}, "plugins.jobs.slots: expected `int`, got `str`"),
        ({"plugins": {"nobody": {}}}, "plugins.nobody: no such plugin is installed"),
        ({"plugins": {"disabled": ["nobody"]}}, "plugins.disabled: no plugin 'nobody'"),
        ({"plugins": {"database": 5}}, "plugins.database: expected `object`, got `int`"),
    ],
)
async def test_a_wrong_configuration_changes_nothing(tmp_path, caplog, settings, said):
    """A configuration that is wrong is told in the log, and the old one stays."""
    kept = [entry("fake-detect", params={"confidence": 0.1})]
    points = [*POINTS, *testing.installed("database", "jobs")]
    async with running(tmp_path, points, models=kept) as server:
        await server.reload(**settings)
        assert "the configuration was not applied" in caplog.text
        assert said in caplog.text
        assert await server.found("fake-detect") == 2


BROKEN = """
class Service(Base):
    def __init__(self, ctx):
        raise KeyError
"""


async def test_the_settings_of_a_plugin_that_failed_at_the_start(tmp_path, plugin, caplog):
    """The next start reads them before it fails again: it would refuse wrong ones."""
    point = plugin(BROKEN, "broken", PREAMBLE)
    async with running(tmp_path, points=[*POINTS, point]) as server:
        await server.reload(plugins={"broken": {"greeting": 5}})
        assert "not applied: configuration: plugins.broken.greeting: expected `str`" in caplog.text


async def test_settings_that_need_a_restart_are_named(tmp_path, caplog):
    """Everything but models and cameras waits for the next start, and is named."""
    caplog.set_level(logging.INFO)
    points = [*POINTS, *testing.installed("database", "jobs")]
    async with running(tmp_path, points) as server:
        changed = {"models": [entry("fake-ocr", pin=True)], "plugins": {"jobs": {"slots": 3}}}
        await server.reload(max_sessions=3, infer_timeout=5.0, **changed)
        named = "restart the server to change infer_timeout, max_sessions, plugins.jobs\n"
        assert named in caplog.text
        assert "changed models: fake-ocr" in caplog.text
        assert server.composed.catalog.settings.max_sessions == 10


def test_sighup(tmp_path, monkeypatch):
    """The signal has a real server read its file again, and does not end it."""
    terminal = Terminal(tmp_path, monkeypatch)
    register(terminal.data, {"opencv-qr": "detect"})
    file = tmp_path / "edge.yaml"
    file.write_text("register_defaults: false\n")
    monkeypatch.setenv("MATA_SERVER_AUTH_MODE", "none")
    with serving(terminal, "--config", "edge.yaml") as server:
        file.write_text("models: [{model: opencv-qr, preload: true}]\n")
        server.process.send_signal(signal.SIGHUP)
        said(server, "loaded opencv-qr")
        said(server, "restart the server to change register_defaults")
        file.write_text("modles: []\n")
        server.process.send_signal(signal.SIGHUP)
        said(server, "(edge.yaml): modles: unknown key; did you mean models?")
        with urllib.request.urlopen(f"{server.url}/v1/models/opencv-qr") as answer:
            assert json.load(answer)["state"] == "ready"
        assert server.end() == 0


RELUCTANT = """
class Service(Base):
    def reconfigure(self, settings):
        def fail():
            raise KeyError

        if settings.greeting == "no function":
            return None
        return fail if settings.greeting == "not now" else fail()
"""


@pytest.mark.parametrize("greeting", ["raise", "no function"])
async def test_a_plugin_that_fails_to_read_its_settings(tmp_path, plugin, caplog, greeting):
    """Nothing is applied, as for wrong settings; the log names the plugin."""
    point = plugin(RELUCTANT, "reluctant", PREAMBLE)
    async with running(tmp_path, points=[*POINTS, point]) as server:
        models = [entry("fake-detect", params={"confidence": 0.1})]
        plugins = {"reluctant": {"greeting": greeting}}
        await server.reload(models=models, plugins=plugins)
        assert "reconfigure() of the plugin reluctant failed" in caplog.text
        assert "was not applied: the plugin reluctant failed to read it" in caplog.text
        assert await server.found("fake-detect") == 1
        async with server.http.get("/ready") as response:
            assert response.status == 200


async def test_a_plugin_that_fails_to_apply_its_settings(tmp_path, plugin, caplog):
    """The rest of the configuration is applied; the plugin is asked again the next time."""
    point = plugin(RELUCTANT, "reluctant", PREAMBLE)
    async with running(tmp_path, points=[*POINTS, point]) as server:
        models = [entry("fake-detect", params={"confidence": 0.1})]
        plugins = {"reluctant": {"greeting": "not now"}}
        for _ in range(2):
            await server.reload(models=models, plugins=plugins)
        told = "the plugin reluctant failed to apply its changed settings"
        assert [each.getMessage() for each in caplog.records].count(told) == 2
        assert await server.found("fake-detect") == 2
