"""Engines of plugins: declared by a hook, made when the configuration names them, or refused."""

from __future__ import annotations

import importlib.metadata
import itertools
import os
import subprocess
import sys
import textwrap

import aiohttp
import pytest

from conftest import picture
from mataserver import config
from mataserver.config import ConfigError, Settings
from mataserver.errors import MataError
from mataserver.plugins import discover
from mataserver.serving import engine_set
from mataserver.testing import FAKE, serving
from mataserver.testing.serving import compose

_NUMBERS = itertools.count()

NICE = """
import os
from mataserver import EngineSpec, hookimpl


class Nice:
    # Starts workers of the engine "process" with a lower priority.

    def __init__(self, ctx):
        self._process = ctx.process()
        self._niceness = ctx.settings.niceness
        self.is_open = False
        self.closed = 0

    def open(self):
        self.is_open = True

    @property
    def waiting(self):
        return {} if self.is_open else {"nice": "not open yet"}

    async def start(self, assignment, placement):
        worker = await self._process.start(assignment, placement)
        for pid in worker.pids:
            os.setpriority(os.PRIO_PROCESS, pid, self._niceness)
        return worker

    async def close(self):
        self.closed += 1


from msgspec import Struct


class Settings(Struct, frozen=True, forbid_unknown_fields=True):
    niceness: int = 7


@hookimpl
def settings():
    return Settings


@hookimpl
def engines():
    return [EngineSpec(name="nice", make=Nice)]
"""
START = """
from mataserver import EngineSpec, hookimpl

{code}

@hookimpl
def engines():
    return [EngineSpec(name="{name}", make=make{more})]
"""
DETECT = {"model": "fake-detect", "task": "detect"}


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    """Write a plugin's module; return its entry point."""
    monkeypatch.syspath_prepend(tmp_path)

    def write(source, name="nice"):
        module = f"engine_{next(_NUMBERS)}"
        (tmp_path / f"{module}.py").write_text(textwrap.dedent(source))
        return importlib.metadata.EntryPoint(name, module, "mataserver")

    return write


def making(code, name="nice", more=""):
    """Return the source of a plugin with one engine, made by ``make(ctx)`` of ``code``."""
    return START.format(code=textwrap.dedent(code), name=name, more=more)


def chosen(*points, engine="nice", **settings):
    """Return settings with an engine, and the plugins found under them."""
    read = Settings(engine=engine, **settings)
    return read, discover(read, points)


async def infer(server, model="fake-detect"):
    """Infer on a picture; return status and body."""
    headers = {**server.headers, "Content-Type": "image/png"}
    async with (
        aiohttp.ClientSession(server.url, headers=headers) as http,
        http.post("/v1/infer", params={"model": model}, data=picture()) as answer,
    ):
        return answer.status, await answer.json()


async def test_a_model_runs_on_a_plugins_engine(plugin, tmp_path):
    """Its worker is a process of the niceness that the engine sets; other models' are not."""
    point = plugin(NICE)
    models = [{**DETECT, "engine": "nice"}, {"model": "fake-ocr", "task": "ocr"}]
    plugins = {point.name: {"niceness": 11}}
    async with serving(
        tmp_path / "data", entry_points=[FAKE, point], models=models, plugins=plugins
    ) as server:
        engine = server.composed.engines.running("nice")
        for model in ("fake-detect", "fake-ocr"):
            status, answer = await infer(server, model)
            assert (status, answer["model"]) == (200, model)
        slots = {slot.plan.spec.name: slot for slot in server.composed.pool._slots}
        niceness = {
            name: [os.getpriority(os.PRIO_PROCESS, pid) for pid in slot.worker.pids]
            for name, slot in slots.items()
        }
        own = os.getpriority(os.PRIO_PROCESS, 0)
        assert niceness == {"fake-detect": [11], "fake-ocr": [own]}
        assert engine.is_open
        assert engine.closed == 0
    assert engine.closed == 1


async def test_what_an_engine_waits_for_is_told(plugin, tmp_path):
    """``GET /ready`` is 503 with the engine's own words until there is nothing to wait for."""
    point = plugin(NICE)
    async with (
        serving(tmp_path / "data", entry_points=[FAKE, point], engine="nice") as server,
        aiohttp.ClientSession(server.url, headers=server.headers) as http,
    ):
        server.composed.engines.running("nice").is_open = False
        async with http.get("/ready") as answer:
            assert answer.status == 503
            assert (await answer.json())["waiting"] == {"nice": "not open yet"}
        server.composed.engines.running("nice").is_open = True
        async with http.get("/ready") as answer:
            assert answer.status == 200


def test_an_engine_gets_the_settings_that_bear_its_name(plugin):
    """``ray_room`` is ``room`` of the engine ``ray``: the server's settings by prefix."""
    code = """
    class Engine:
        def __init__(self, ctx):
            self.options = dict(ctx.options)
        async def start(self, assignment, placement):
            raise NotImplementedError
        async def close(self):
            pass
    make = Engine
    """
    settings, plugins = chosen(plugin(making(code, "unread")), engine="unread")
    made = engine_set.EngineSet(settings, plugins).running("unread")
    assert made.options == {"timeout": settings.unread_timeout}


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (
            "def make(ctx):\n    raise RuntimeError('no\\nluck')",
            "the engine nice cannot start: RuntimeError: no luck",
        ),
        (
            "from mataserver import MataError\ndef make(ctx):\n    raise MataError('no luck')",
            "no luck",
        ),
        (
            "def make(ctx):\n    return object()",
            "the engine nice cannot start: it has no coroutine function start",
        ),
    ],
)
def test_an_engine_that_cannot_be_made_stops_the_start(plugin, tmp_path, code, said):
    """Its reason is the server's, in one line."""
    point = plugin(making(code))
    with pytest.raises(MataError) as caught:
        compose(tmp_path, [FAKE, point], engine="nice")
    assert caught.value.detail == said


async def test_an_engine_that_nobody_names_is_not_made(plugin, tmp_path):
    """Whatever its ``make`` would do, the server and its models are there."""
    point = plugin(making("def make(ctx):\n    raise RuntimeError('no luck')"))
    async with serving(
        tmp_path / "data", entry_points=[FAKE, point], engine="thread", models=[DETECT]
    ) as server:
        assert (await infer(server))[0] == 200


async def test_a_load_that_fails_is_the_requests(plugin, tmp_path):
    """What ``start`` raises is a 500 without the reason; another model is served."""
    code = """
    class Engine:
        async def start(self, assignment, placement):
            if assignment.spec.name == "fake-detect":
                raise RuntimeError("secret")
            return None
        async def close(self):
            raise RuntimeError("it does not stop")
    def make(ctx):
        return Engine()
    """
    models = [
        {**DETECT, "engine": "nice"},
        {"model": "fake-ocr", "task": "ocr", "engine": "nice"},
        {"model": "fake-track", "task": "track", "engine": "thread"},
    ]
    points = [FAKE, plugin(making(code))]
    async with serving(tmp_path / "data", entry_points=points, models=models) as server:
        assert await infer(server) == (500, {"detail": "The model could not be loaded"})
        refused = {"detail": "The engine nice started no worker"}
        assert await infer(server, "fake-ocr") == (500, refused)
        assert (await infer(server, "fake-track"))[0] == 200


async def test_a_broken_plugin_is_told_and_the_server_goes_on(plugin, tmp_path):
    """Without a model on it, a plugin whose import fails is listed with its error."""
    point = plugin("raise RuntimeError('no luck')")
    async with (
        serving(tmp_path / "data", entry_points=[FAKE, point], engine="thread") as server,
        aiohttp.ClientSession(server.url, headers=server.headers) as http,
        http.get("/v1/plugins") as answer,
    ):
        errors = {each["name"]: each.get("error") for each in await answer.json()}
        assert errors["nice"].startswith("RuntimeError: no luck")
        assert errors["fake"] is None
        assert (await http.get("/ready")).status == 200


def test_an_engine_of_a_broken_plugin_is_refused_with_its_reason(plugin):
    """A model that needs it stops the start with what is wrong."""
    settings, plugins = chosen(plugin("raise RuntimeError('no luck')"))
    with pytest.raises(ConfigError, match="engine: nice is not in use: RuntimeError: no luck"):
        engine_set.EngineSet(settings, plugins)


def test_an_unknown_engine_is_refused(plugin):
    """The place in the configuration, and the engines that there are."""
    models = [config.ModelSettings(model="a", engine="nicer")]
    settings, plugins = chosen(plugin(NICE), engine="auto", models=models)
    with pytest.raises(ConfigError) as caught:
        engine_set.EngineSet(settings, plugins)
    said = caught.value.detail
    assert said.startswith("configuration: models[0].engine: unknown engine 'nicer': one of auto,")
    assert said.endswith("nice; did you mean nice?")


def test_ray_needs_its_distribution():
    """Its engine, and the cluster of services, are refused with the command that installs it."""
    said = (
        r"engine: ray needs a package: pip install mataserver-ray \(\./plugins/ray in a checkout\)"
    )
    settings, plugins = chosen(engine="ray")
    with pytest.raises(ConfigError, match=said):
        engine_set.EngineSet(settings, plugins)
    with pytest.raises(MataError, match=said):
        engine_set.EngineSet(Settings(), plugins).cluster()


def test_a_missing_module_is_named_before_anything_starts(plugin):
    """The command that installs what an engine requires is in the error."""
    more = ', requires=("no_such_module",), packages=("no-such[all]",)'
    settings, plugins = chosen(
        plugin(making("def make(ctx):\n    raise AssertionError", more=more))
    )
    said = r"engine: nice needs a package: pip install 'no-such\[all\]'"
    with pytest.raises(MataError, match=said):
        engine_set.check(settings, plugins)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (making("make = None"), "engine nice: make must be a function"),
        (making("def make():\n    pass"), "engine nice: make is called with (ctx), and takes ()"),
        (making("def make(ctx):\n    pass", "thread"), "engine thread: the name is the server's"),
        (making("def make(ctx):\n    pass", "auto"), "engine auto: the name is the server's"),
        (
            making("def make(ctx):\n    pass", "Nice"),
            "engines() gave the name 'Nice': an engine's has small letters, digits and _",
        ),
        (
            making("def make(ctx):\n    pass", more=', requires="ray"'),
            "engine nice: requires must be a tuple of strings",
        ),
        (
            "from mataserver import hookimpl\n@hookimpl\ndef engines():\n    return 1",
            "engines() must return engines, not a int",
        ),
        (
            "from mataserver import hookimpl\n@hookimpl\ndef engines():\n    return [1]",
            "engines() gave a int, not an EngineSpec",
        ),
    ],
)
def test_a_wrong_engine_puts_its_plugin_out_of_use(plugin, source, said):
    """The sentence says what is wrong; nothing of the plugin is used."""
    (found,) = discover(Settings(), [plugin(source)]).found
    assert (found.error, found.engines) == (said, ())


def test_a_name_belongs_to_the_first(plugin):
    """A second engine of the same name puts its plugin out of use; the first one stays."""
    found = discover(Settings(), [plugin(NICE, "a"), plugin(NICE, "b")])
    errors = [each.error for each in found.found]
    assert errors == [None, "engine nice: the plugin a has one of that name"]
    assert found.engine("nice")[1].name == "a"


def test_a_distributions_engine_is_found_and_checked(tmp_path):
    """``mataserver check`` reads the entry point of an installed distribution."""
    site = tmp_path / "site"
    info = site / "mataserver_nice-1.0.dist-info"
    info.mkdir(parents=True)
    (site / "mataserver_nice.py").write_text(NICE)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mataserver-nice\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[mataserver]\nnice = mataserver_nice\n")
    work = tmp_path / "work"
    work.mkdir()

    def check(yaml):
        (work / "mataserver.yaml").write_text(yaml + f"\ndata_dir: {tmp_path / 'data'}\n")
        run = subprocess.run(
            [sys.executable, "-m", "mataserver", "check"],
            cwd=work,
            env={**os.environ, "PYTHONPATH": str(site)},
            capture_output=True,
            text=True,
            check=False,
        )
        return run.returncode, run.stdout + run.stderr

    status, said = check("engine: nicer")
    assert status == 1
    assert "error: configuration: engine: unknown engine 'nicer'" in said
    status, said = check("engine: nice")
    assert "unknown engine" not in said
    assert status == 0, said
