"""The models as a plugin's service sees them, in a thread and in a process."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import signal
import time

import aiohttp
import numpy as np
import pytest

from conftest import picture
from markdown_pages import blocks, read
from mataserver import Params, VlmResult, results
from mataserver.errors import BadRequest, InvalidParams, MataError, NotFound, Unavailable
from mataserver.results import Detection, DetectResult
from mataserver.testing import FAKE, serving
from service_plugins import LAB, folder, plugin

__all__ = ["folder", "plugin"]

ENGINES = ["thread", "process"]


@dataclasses.dataclass
class Box:
    """What a service gives a model and gets back."""

    width: int


@contextlib.asynccontextmanager
async def models(plugin, folder, engine, **settings):
    """The models as a service sees them, on an engine."""
    points = [FAKE, plugin(LAB)]
    async with serving(folder, entry_points=points, engine=engine, **settings) as served:
        service = served.service("lab")
        yield service.ctx.models


@pytest.mark.parametrize("engine", ENGINES)
async def test_predict_gives_the_models_struct(plugin, folder, engine):
    """The handle's ``predict`` returns the very struct that the model made."""
    async with models(plugin, folder, engine) as at, at.acquire("fake-detect") as model:
        result = await model.predict(picture())
    assert result == DetectResult([Detection("64x48", 0.9, (10.0, 8.0, 30.0, 28.0))])


@pytest.mark.parametrize("engine", ENGINES)
async def test_predict_gives_arrays(plugin, folder, engine):
    """Masks come back as boolean arrays, depth as a float32 array, as the model gave them."""
    async with models(plugin, folder, engine) as at:
        async with at.acquire("fake-segment") as model:
            masked, unmasked = (await model.predict(picture())).segments
        async with at.acquire("fake-depth") as model:
            depth = (await model.predict(picture(), {"normalize": False})).depth_map
    expected = np.zeros((48, 64), bool)
    expected[8:28, 10:30] = True
    assert np.array_equal(masked.mask, expected)
    assert unmasked.mask is not None
    assert not isinstance(unmasked.mask, np.ndarray)
    assert (depth.shape, depth.dtype, depth.max()) == ((48, 64), np.float32, 10.0)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("form", ["json", "msgpack"])
async def test_answer_gives_a_whole_body(plugin, folder, engine, form):
    """The handle's ``answer`` returns what ``POST /v1/infer`` would, and where its time went."""
    async with models(plugin, folder, engine) as at:
        begun = time.time()
        answer = await at.get("fake-detect").answer(picture(), {"seconds": 0.02}, form)
    found = results.decode(answer.body, msgpack=form == "msgpack")
    assert (found.schema_version, found.task, found.model) == ("mata.v1", "detect", "fake-detect")
    assert begun + 0.02 <= found.timestamp <= time.time()
    assert found.detections == [Detection("64x48", 0.9, (10.0, 8.0, 30.0, 28.0))]
    assert answer.infer >= 20
    assert min(answer.decode, answer.queue, answer.encode) >= 0


@pytest.mark.parametrize("engine", ENGINES)
async def test_generate_gives_pieces_then_the_result(plugin, folder, engine):
    """A text comes letter by letter, then the struct; another task gives its result alone."""
    async with models(plugin, folder, engine) as at:
        items = [item async for item in at.get("fake-vlm").generate(picture())]
        assert items == [*"64x48", VlmResult("64x48")]
        [alone] = [item async for item in at.get("fake-detect").generate(picture())]
        assert alone.detections[0].label == "64x48"
        *pieces, answer = [item async for item in at.get("fake-vlm").generate_answer(picture())]
    assert "".join(pieces) == results.decode(answer.body).text == "64x48"


@pytest.mark.parametrize("engine", ENGINES)
async def test_generate_ends_with_the_result_of_a_model_that_is_removed(plugin, folder, engine):
    """A removal waits for the text, whose result is the model's as it began."""
    async with models(plugin, folder, engine) as at:
        items = at.get("fake-vlm").generate(picture(), {"seconds": 0.1})
        found = [await anext(items)]
        removal = asyncio.create_task(at.remove("fake-vlm"))
        found += [item async for item in items]
        await removal
        assert found == [*"64x48", VlmResult("64x48")]
        with pytest.raises(NotFound):
            at.get("fake-vlm")


@pytest.mark.parametrize("engine", ENGINES)
async def test_generate_raises_what_the_model_failed_with(plugin, folder, engine):
    """Wrong parameters are told before the model is asked, a failure at the piece it was made."""
    async with models(plugin, folder, engine) as at:
        with pytest.raises(InvalidParams, match=r"params\.top_k"):
            await anext(at.get("fake-vlm").generate(picture(), {"top_k": 0}))
        with pytest.raises(MataError, match="The model failed: RuntimeError"):
            await anext(at.get("fake-vlm").generate(picture(), {"behave": "raise"}))


@pytest.mark.parametrize("engine", ENGINES)
async def test_a_session_keeps_the_models_state(plugin, folder, engine):
    """Two sessions count their frames apart, and each begins anew; the model is held meanwhile."""
    async with models(plugin, folder, engine, keep_alive=0) as at:
        tracker = at.get("fake-track")
        async with tracker.session() as one, tracker.session({"confidence": 0.1}) as other:
            for session, number in ((one, 1), (one, 2), (other, 1), (one, 3)):
                [found] = (await session.step(picture())).detections
                assert found.track_id == number
            with pytest.raises(MataError, match="image cannot be decoded"):
                await one.step(b"no picture")
            assert (one.frames, one.results, one.reset) == (4, 3, False)
            assert at.info("fake-track").state == "idle"
        await gone(at)


async def test_a_session_tells_once_that_the_state_was_lost(plugin, folder):
    """The step that a worker dies with raises; the next result, of a new state, says so."""
    async with models(plugin, folder, "process") as at:
        tracker = at.get("fake-track")
        async with tracker.session() as session:
            await session.step(picture())
            os.kill(pid_of(at, "fake-track"), signal.SIGKILL)
            tracks = []
            while len(tracks) < 2:
                with contextlib.suppress(MataError):
                    tracks.append(((await session.step(picture())).detections[0], session.reset))
    assert [(found.track_id, reset) for found, reset in tracks] == [(1, True), (2, False)]


def pid_of(at, name):
    """Return the process that holds a model."""
    [slot] = at._pool._residency.slots_of(name)
    return slot.worker.report.pid


async def test_models_are_listed_loaded_and_removed(plugin, folder):
    """A service sees every model, loads and unloads one, and registers one no more."""
    async with models(plugin, folder, "thread") as at:
        assert "fake-detect" in {info.model for info in at.list()}
        await at.load("fake-detect")
        assert at.info("fake-detect").state == "ready"
        assert [await at.unload("fake-detect"), await at.unload("fake-detect")] == [True, False]
        await at.load("fake-detect")
        await at.remove("fake-detect")
        for ask in (at.get, at.info):
            with pytest.raises(NotFound):
                ask("fake-detect")
        assert await at.pull("fake-detect", "detect") == []
        assert at.info("fake-detect").state == "unloaded"


async def test_checked_params_can_be_used_again(plugin, folder):
    """What ``params`` returned is taken as it is, a configured default over the ceiling too."""
    own = [{"model": "fake-detect", "params": {"confidence": 0.95}}]
    async with models(plugin, folder, "thread", models=own) as at:
        model = at.get("fake-detect")
        assert (model.name, model.task) == ("fake-detect", "detect")
        for params, count in (
            (model.params(), 0),
            (model.params({"confidence": 0.1}), 2),
            (model.params({"confidence": ".5"}, text=True), 1),
        ):
            assert isinstance(params, model.params_type)
            assert len((await model.predict(picture(), params)).detections) == count


async def test_params_are_checked_like_a_requests(plugin, folder):
    """Names and ranges of the API hold for services; the model's own params fill the gaps."""
    own = [{"model": "fake-detect", "params": {"confidence": 0.1}}]
    async with (
        models(plugin, folder, "thread", models=own) as at,
        at.acquire("fake-detect") as model,
    ):
        assert len((await model.predict(picture())).detections) == 2
        assert len((await model.predict(picture(), {"confidence": 0.5})).detections) == 1
        with pytest.raises(InvalidParams, match=r"params\.threshold: .*use 'confidence'"):
            await model.predict(picture(), {"threshold": 0.5})
        with pytest.raises(InvalidParams, match=r"params\.confidence"):
            await model.answer(picture(), {"confidence": 2})
        with pytest.raises(InvalidParams, match="params: expected `object`"):
            await model.predict(picture(), ["confidence"])


class Asked(Params, frozen=True, kw_only=True):
    """Parameters of a service's own."""

    max_tokens: int = 1_000


async def test_the_servers_limit_of_tokens_holds_for_services(plugin, folder):
    """As in a request: a dict or a struct that asks for more is refused, a default is none."""
    async with (
        models(plugin, folder, "thread", max_tokens=64) as at,
        at.acquire("fake-detect") as model,
    ):
        await model.predict(picture(), {"max_tokens": 64})
        for asked in ({"max_tokens": 65}, Asked(max_tokens=65)):
            with pytest.raises(InvalidParams, match=r"params\.max_tokens: .* at most 64"):
                await model.predict(picture(), asked)
            with pytest.raises(InvalidParams, match="at most 64"):
                await model.answer(picture(), asked)
        with pytest.raises(MataError, match="unknown field `max_tokens`"):  # the worker's word
            await model.predict(picture(), Asked())


@pytest.mark.parametrize("engine", ENGINES)
async def test_failures_reach_the_service(plugin, folder, engine):
    """A refused picture is 400, a failing model 500, and neither text holds a secret."""
    async with models(plugin, folder, engine) as at, at.acquire("fake-detect") as model:
        with pytest.raises(MataError, match="image cannot be decoded") as refused:
            await model.predict(b"no picture")
        with pytest.raises(MataError, match="The model failed: RuntimeError") as failed:
            await model.predict(picture(), {"behave": "raise"})
    assert (refused.value.status, failed.value.status) == (400, 500)


async def test_models_that_cannot_be_acquired(plugin, folder):
    """An unknown model is ``NotFound``, a task that nothing serves ``Unavailable``."""
    async with models(plugin, folder, "thread") as at:
        with pytest.raises(NotFound, match="Model not found: nobody"):
            async with at.acquire("nobody"):
                pass
        with pytest.raises(Unavailable, match="fake-detect for the task ocr"):
            async with at.acquire("fake-detect", "ocr"):
                pass


async def test_a_service_registers_a_directory(plugin, folder, tmp_path):
    """``add`` registers what an installed plugin serves, under its own name, and only once."""
    weights = tmp_path / "my-weights"
    weights.mkdir()
    (weights / "config.json").write_text('{"model_type": "fake"}')
    async with models(plugin, folder, "thread") as at:
        assert at.add(weights, "detect") == at.add(weights, "detect") == "my-weights"
        async with at.acquire("my-weights") as model:
            assert len((await model.predict(picture())).detections) == 1
        with pytest.raises(BadRequest, match="serves detect, track, not ocr"):
            at.add(weights, "ocr")


async def test_a_service_is_told_of_a_model(plugin, folder):
    """``info`` tells what ``GET /v1/models`` tells, and raises for a model that is not here."""
    async with models(plugin, folder, "thread") as at:
        assert (at.info("lab").state, at.info("lab").task) == ("unloaded", "classify")
        async with at.acquire("lab"):
            assert at.info("lab").state == "ready"
        with pytest.raises(NotFound, match="Model not found: nobody"):
            at.info("nobody")


@pytest.mark.parametrize("engine", ENGINES)
async def test_call_runs_a_public_method(plugin, folder, engine):
    """``call`` gives arguments and result through, whatever process the model lives in."""
    async with models(plugin, folder, engine) as at:
        async with at.acquire("fake-detect") as model:
            value = {"a": [1, np.arange(3)], "b": b"\x00", "c": (Box(2), {3})}
            answer = await model.call("echo", value=value)
        async with at.acquire("lab") as model:
            for name in ("_secret", "nothing", "computed"):
                with pytest.raises(MataError, match="no method") as refused:
                    await model.call(name)
                assert refused.value.status == 404
    assert np.array_equal(answer["a"][1], [0, 1, 2])
    assert answer["b"] == b"\x00"
    assert answer["c"] == (Box(2), {3})


async def test_a_result_that_cannot_travel(plugin, folder):
    """From a worker process a lock is refused by its name, and the worker lives."""
    async with models(plugin, folder, "process") as at, at.acquire("lab") as model:
        with pytest.raises(MataError, match="A lock cannot be sent"):
            await model.call("lock")
        assert await model.call("seen") == (0, False)


@pytest.mark.parametrize("engine", ENGINES)
async def test_stream_gives_every_item(plugin, folder, engine):
    """``stream`` iterates over a generator method to its end, and two streams interleave."""
    async with models(plugin, folder, engine) as at, at.acquire("fake-detect") as model:
        both = model.stream("count", 3), model.stream("count", stop=3)
        items = [await anext(stream) for _ in range(3) for stream in both]
        assert items == [0, 0, 1, 1, 2, 2]
        assert [item async for item in both[0]] == []
        await both[1].aclose()


@pytest.mark.parametrize("engine", ENGINES)
async def test_closing_a_stream_stops_the_work(plugin, folder, engine):
    """After three of a million items nothing more is computed and the generator is closed."""
    async with models(plugin, folder, engine) as at, at.acquire("lab") as model:
        async with contextlib.aclosing(model.stream("numbers", 1_000_000)) as stream:
            items = [await anext(stream) for _ in range(3)]
        assert items == [0, 1, 2]
        assert await model.call("seen") == (3, True)


@pytest.mark.parametrize("engine", ENGINES)
async def test_a_stream_ends_with_the_models_error(plugin, folder, engine):
    """An error of a generator method reaches whoever iterates, after the items before it."""
    async with models(plugin, folder, engine) as at, at.acquire("lab") as model:
        stream = model.stream("numbers", 2)
        assert [await anext(stream), await anext(stream)] == [0, 1]
        with pytest.raises(MataError, match="there are no more numbers") as ended:
            await anext(stream)
        assert ended.value.status == 400


@pytest.mark.parametrize("engine", ENGINES)
async def test_a_held_model_stays_loaded(plugin, folder, engine):
    """With ``keep_alive`` 0 a model goes when its last holder does, and not before."""
    async with models(plugin, folder, engine, keep_alive=0) as at:
        async with at.acquire("lab") as model:
            async with at.acquire("lab"), contextlib.aclosing(model.stream("numbers", 9)) as stream:
                await anext(stream)
            await model.predict(picture())
            assert await model.call("seen") == (1, True)
        await gone(at)
        async with at.acquire("lab") as model:
            assert await model.call("seen") == (0, False)
        await gone(at)


async def test_the_documented_service(plugin, folder):
    """The example of docs/plugin-inference.md does what it says, over REST."""
    [block] = [b for b in blocks(read("plugin-inference.md"), "python") if "class Pictures" in b]
    told = {}
    async with (
        serving(folder, entry_points=[FAKE, plugin(block)], engine="thread") as server,
        aiohttp.ClientSession(server.url, headers=server.headers) as http,
    ):
        for name in ("count", "answer?confidence=.1", "text", "tracks", "answer?top_k=none"):
            async with http.post(f"/v1/pictures/{name}", data=picture()) as response:
                told[name] = (response.status, await response.text())
    assert told.pop("count") == (200, '{"count": 1}')
    assert told.pop("text") == (200, "64x48.")
    assert told.pop("tracks") == (200, "[[1], [2]]")
    status, body = told.pop("answer?confidence=.1")
    assert (status, len(results.decode(body.encode()).detections)) == (200, 2)
    [(status, body)] = told.values()
    assert status == 422
    assert "top_k" in body


async def gone(at):
    """Wait until the models of a service are out of memory, and their workers ended."""
    while at._pool.loaded():
        await asyncio.sleep(0.01)
    await asyncio.wait([slot.unloading for slot in at._pool._slots])
