"""Pulls beside each other: two fetch, the others wait in order and are told their place."""

from __future__ import annotations

import asyncio
import json
import os
import tomllib

import pytest
from packaging.requirements import Requirement

from api_answers import until
from fresh_environment import ROOT
from hub_stand_in import HubStandIn
from mataserver import Backend, config, testing
from mataserver import plugins as plugin_host
from mataserver.errors import Conflict, Unavailable
from mataserver.plugins import Plugin, ProvidedBackend
from mataserver.sources.messages import QueuePosition
from mataserver.sources.pulls import Pulls

CONFIG = json.dumps({"model_type": "fake"}).encode()
WEIGHTS = bytes(200_000)
NAMES = ("hf", "ocr", "onnx", "opencv", "sam", "track")


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A stand-in hub with four models that the fake plugin serves."""
    with HubStandIn() as made:
        for name in [n for n in os.environ if n.startswith(("HF_", "HUGGINGFACE_"))]:
            monkeypatch.delenv(name)
        for name, value in made.environment(tmp_path / "hf").items():
            if name.startswith("HF_"):
                monkeypatch.setenv(name, value)
        for number in range(4):
            made.add(f"org/m{number}", {"config.json": CONFIG, "model.safetensors": WEIGHTS})
        yield made


class Line:
    """Pulls that hold their turn until they are let go."""

    def __init__(self, running: int, waiting: int) -> None:
        self.pulls = Pulls(running, waiting)
        self.told: dict[str, list[int]] = {}
        self.running: list[str] = []
        self.ends: dict[str, asyncio.Event] = {}

    def start(self, name: str) -> asyncio.Task[None]:
        return asyncio.create_task(self._pull(name))

    async def _pull(self, name: str) -> None:
        told = self.told.setdefault(name, [])

        def tell(step):
            assert isinstance(step, QueuePosition)
            told.append(step.place)

        self.ends[name] = asyncio.Event()
        with self.pulls.register(name, tell) as pull:
            async with self.pulls.slot(pull):
                self.running.append(name)
                await self.ends[name].wait()


async def test_turns_are_taken_in_order():
    """Two run, the rest wait in order; each is told its place again when one before it goes."""
    line = Line(running=2, waiting=3)
    tasks = {name: line.start(name) for name in "abcde"}
    await asyncio.sleep(0)
    assert line.running == ["a", "b"]
    assert line.told == {"a": [], "b": [], "c": [1], "d": [2], "e": [3]}
    tasks["d"].cancel()
    await asyncio.wait([tasks["d"]])
    line.ends["b"].set()
    await until(lambda: line.running == ["a", "b", "c"])
    assert line.told == {"a": [], "b": [], "c": [1], "d": [2], "e": [3, 2, 1]}
    for name in "ace":
        line.ends[name].set()
        await tasks[name]
    assert line.running == ["a", "b", "c", "e"]


async def test_too_many_waiting_are_refused():
    """Beyond the bound a pull is 503 with a time to wait, and the others are not disturbed."""
    line = Line(running=1, waiting=1)
    tasks = [line.start("a"), line.start("b")]
    await asyncio.sleep(0)
    with pytest.raises(Unavailable) as refused:
        await line.start("c")
    assert (refused.value.status, refused.value.retry_after) == (503, 60.0)
    line.ends["a"].set()
    await until(lambda: line.running == ["a", "b"])
    line.ends["b"].set()
    await asyncio.gather(*tasks)


async def test_second_pull_of_a_model_is_told_the_place_of_the_first():
    """The conflict says where in the line the other one stands."""
    line = Line(running=1, waiting=2)
    tasks = [line.start("a"), line.start("b")]
    await asyncio.sleep(0)
    with pytest.raises(Conflict, match=r"A pull of b is already in progress: .* place 1"):
        await line.start("b")
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


async def test_turn_that_comes_to_one_that_is_cancelled_is_handed_on():
    """A pull that is cancelled in the moment when its turn comes does not keep the turn."""
    line = Line(running=1, waiting=2)
    first, second, third = (line.start(name) for name in "abc")
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.sleep(0)
    second.cancel()
    await until(lambda: line.running == ["a", "c"])
    third.cancel()
    await asyncio.wait([first, second, third])


async def test_server_tells_each_waiting_pull_its_place(hub, http):
    """The third pull at once waits: its events tell its place and progress, and then its result."""
    held = []
    for name in ("org/m0", "org/m1"):
        hub.repos[name].hold_at = 100_000
        body = {"model": name, "task": "detect"}
        held.append(asyncio.create_task(http.post("/v1/models/pull", json=body)))
    await until(lambda: len(hub.asked("GET", ".safetensors")) == 2, 30)
    body = {"model": "org/m2", "task": "detect"}
    events = {"Accept": "text/event-stream"}
    async with http.post("/v1/models/pull", json=body, headers=events) as response:
        assert (response.status, response.content_type) == (202, "text/event-stream")
        assert await response.content.readuntil(b"\n\n") == b'event: waiting\ndata: {"place":1}\n\n'
        async with http.post("/v1/models/pull", json=body) as again:
            assert again.status == 409
            assert "place 1" in (await again.json())["detail"]
        hub.release()
        said = (await response.read()).decode().strip().split("\n\n")
    assert said[0].startswith('event: progress\ndata: {"done_bytes":')
    assert said[-1] == 'event: result\ndata: {"status":"pulled","model":"org/m2"}'
    for answer in await asyncio.gather(*held):
        assert answer.status == 202
        answer.release()


async def test_leaving_the_events_of_a_pull_cancels_it(hub, http):
    """Who closes the stream of events gives the pull up: it ends, and the next one begins anew."""
    hub.repos["org/m0"].hold_at = 100_000
    body = {"model": "org/m0", "task": "detect"}
    events = {"Accept": "text/event-stream"}
    async with http.post("/v1/models/pull", json=body, headers=events) as response:
        assert response.status == 202
        assert (await response.content.readuntil(b"\n\n")).startswith(b"event: progress")
        response.close()
    hub.repos["org/m0"].hold_at = None

    async def again():
        async with http.post("/v1/models/pull", json=body) as response:
            return response.status == 202

    await until(again, 30)


async def test_leaving_a_plain_pull_does_not_end_it(hub, http):
    """Without events a client that goes away leaves its pull running."""
    hub.repos["org/m0"].hold_at = 100_000
    body = {"model": "org/m0", "task": "detect"}
    asked = asyncio.create_task(http.post("/v1/models/pull", json=body))
    await until(lambda: hub.asked("GET", ".safetensors"), 30)
    asked.cancel()
    await asyncio.wait([asked])
    async with http.post("/v1/models/pull", json=body) as response:
        assert response.status == 409
    hub.release()

    async def here():
        async with http.get("/v1/models/org/m0") as response:
            return response.status == 200

    await until(here, 30)


async def test_model_that_is_pulled_again_is_not_removed(hub, http):
    """While a registered model is pulled anew, to remove it is 409."""
    body = {"model": "org/m0", "task": "detect"}
    async with http.post("/v1/models/pull", json=body) as response:
        assert response.status == 202
    hub.add("org/m0", {"config.json": CONFIG, "model.safetensors": WEIGHTS + b"1"})
    hub.repos["org/m0"].hold_at = 100_000
    asked = len(hub.asked("GET", ".safetensors"))
    again = asyncio.create_task(http.post("/v1/models/pull", json=body))
    await until(lambda: len(hub.asked("GET", ".safetensors")) > asked, 30)
    async with http.delete("/v1/models/org/m0") as response:
        assert response.status == 409
        assert "already in progress" in (await response.json())["detail"]
    hub.release()
    async with await again as response:
        assert response.status == 202
    async with http.delete("/v1/models/org/m0") as response:
        assert response.status == 200


async def test_failed_pull_is_the_last_event_or_an_ordinary_error(hub, http):
    """A pull that fails before anything was told is a status as ever."""
    body = {"model": "org/none", "task": "detect"}
    events = {"Accept": "text/event-stream"}
    async with http.post("/v1/models/pull", json=body, headers=events) as response:
        assert response.status == 400
        assert "not found" in (await response.json())["detail"]


@pytest.mark.parametrize("name", NAMES)
def test_packages_carry_the_versions_of_their_plugin(name, tmp_path):
    """Every package of every backend has versions, and they are those of its pyproject.toml."""
    project = tomllib.loads((ROOT / "plugins" / name / "pyproject.toml").read_text())["project"]
    extras = project.get("optional-dependencies", {}).values()
    lists = [project["dependencies"], *extras]
    declared = [Requirement(text) for each in lists for text in each]
    chosen = config.load(environ={}, directory=tmp_path, data_dir=str(tmp_path))
    backends = plugin_host.discover(chosen, testing.installed(name)).provided
    packages = {package for offer in backends for package in offer.backend.packages}
    assert packages
    for needed in map(Requirement, packages):
        assert needed.specifier, needed
        assert needed.specifier in [d.specifier for d in declared if d.name == needed.name], needed


def test_installed_version_that_does_not_suit_is_told():
    """A backend whose package is there in another version is 503 with the line that mends it."""
    backend = Backend(name="old", task="ocr", source="pip", load=len, packages=("pytest<1",))
    with pytest.raises(Unavailable, match=r"needs another version than pytest .*: pip install 'py"):
        ProvidedBackend(backend, Plugin("x")).check_installed()
