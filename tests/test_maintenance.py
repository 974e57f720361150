"""What the server tries again by itself: configured models that were not here, failed preloads."""

from __future__ import annotations

import contextlib
import json

import aiohttp

from api_answers import until
from conftest import picture, register
from mataserver import testing
from mataserver.app.maintenance import MaintenanceIntervals
from stream_peers import GATED, LOADS_EXIT

OFTEN = MaintenanceIntervals(retry=0.1)
EVERY = (testing.FAKE, GATED)


@contextlib.asynccontextmanager
async def impatient(folder, *models):
    """Run a server with configured models that tries again at once; yield an HTTP session."""
    async with (
        testing.serving(
            folder, entry_points=EVERY, pace=OFTEN, register_defaults=False, models=models
        ) as served,
        aiohttp.ClientSession(served.url, headers=served.headers) as http,
    ):
        yield http


async def readiness(http):
    """Return the status of ``/ready`` and its sentence."""
    async with http.get("/ready") as response:
        return response.status, (await response.json()).get("detail", "")


async def ready(http):
    """Whether ``/ready`` is 200."""
    return (await readiness(http))[0] == 200


async def has_said(http, words):
    """Whether ``/ready`` says ``words``."""
    return words in (await readiness(http))[1]


async def found(http, model):
    """Infer on a picture; return status and decoded body."""
    headers = {"Content-Type": "image/png"}
    async with http.post(f"/v1/infer?model={model}", data=picture(), headers=headers) as response:
        return response.status, await response.json()


def make_directory(folder, name="mine"):
    """Make the directory of a model that the fake plugin serves."""
    (folder / name).mkdir()
    (folder / name / "config.json").write_text(json.dumps({"model_type": "fake"}))


def of_path(folder, name="mine", **more):
    """Return the configuration of a model in ``folder/name``, which may not be there yet."""
    return {"model": name, "task": "detect", "path": str(folder / name), "engine": "thread", **more}


async def test_a_configured_path_that_appears_is_served(tmp_path):
    """A path that is missing at the start keeps /ready at 503; once it is there it is served."""
    async with impatient(tmp_path, of_path(tmp_path)) as http:
        status, detail = await readiness(http)
        assert (status, "models: mine: no such file or directory" in detail) == (503, True)
        assert str(tmp_path) not in detail
        assert (await found(http, "mine"))[0] == 404
        make_directory(tmp_path)
        await until(lambda: ready(http))
        assert (await found(http, "mine"))[1]["detections"][0]["bbox"] == [10.0, 8.0, 30.0, 28.0]


async def test_what_appears_with_wrong_params_ends_no_tries(tmp_path):
    """Params that a late model does not take are told by /ready; other models are tried on."""
    wrong = of_path(tmp_path, "wrong", params={"confidense": 0.5})
    async with impatient(tmp_path, wrong, of_path(tmp_path)) as http:
        make_directory(tmp_path, "wrong")

        await until(lambda: has_said(http, "models: mine: no such"))
        make_directory(tmp_path, "mine")
        await until(lambda: has_said(http, "models: wrong: params.confidense: unknown"))
        assert (await found(http, "mine"))[0] == 200


async def test_a_preload_that_fails_is_tried_again(tmp_path):
    """A worker that dies while it loads keeps /ready at 503; the first load that works ends it."""
    register(tmp_path, {"fragile": "track"})
    (tmp_path / LOADS_EXIT).touch()
    fragile = {"model": "fragile", "preload": True, "engine": "process"}
    async with impatient(tmp_path, fragile) as http:
        await until(lambda: has_said(http, "worker died"))
        assert (await readiness(http))[0] == 503
        (tmp_path / LOADS_EXIT).unlink()
        await until(lambda: ready(http), 20)
        async with http.get("/v1/models/fragile") as response:
            assert (await response.json())["state"] == "ready"


async def test_a_preloaded_path_that_appears_is_loaded(tmp_path):
    """What is to be preloaded and is not here yet is loaded when it comes."""
    async with impatient(tmp_path, of_path(tmp_path, preload=True)) as http:
        assert (await readiness(http))[0] == 503
        make_directory(tmp_path)
        await until(lambda: ready(http))
        async with http.get("/v1/models/mine") as response:
            assert (await response.json())["state"] == "ready"
