"""How long a worker of an engine that limits its own time may be silent."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal

import aiohttp
import pytest

from api_answers import until
from conftest import picture
from mataserver.testing import installed, serving

engines = pytest.mark.parametrize(
    "name", ["rapidocr"] + ["tesseract"] * (shutil.which("tesseract") is not None)
)


@contextlib.asynccontextmanager
async def loaded(folder, name, **given):
    """Yield a server whose ``infer_timeout`` is 1 s, and the worker of an engine with batches."""
    async with serving(
        folder,
        entry_points=installed("ocr"),
        models=[{"model": name, "task": "ocr", "preload": True, "max_batch": 64}],
        plugins={"ocr": {name: given}},
        infer_timeout=1.0,
        decode_timeout=0.5,
    ) as served:
        slots = served.composed.pool._slots
        await until(lambda: any(slot.worker is not None for slot in slots), 60.0)
        [slot] = slots
        yield served, slot.worker


@engines
async def test_a_short_infer_timeout_finds_a_worker_that_hangs(tmp_path, name):
    """It does not wait for the time that a page may take, 30 or 45 s, nor for that of a batch."""
    async with loaded(tmp_path, name) as (served, worker):
        for pid in worker.pids:
            os.kill(pid, signal.SIGSTOP)
        async with (
            aiohttp.ClientSession(served.url, headers=served.headers) as http,
            http.post("/v1/infer", params={"model": name}, data=picture()) as response,
        ):
            answer = await response.json()
    assert response.status == 500
    assert "gave no answer within 1 s" in answer["detail"]


@engines
@pytest.mark.parametrize(("timeout", "seconds"), [(100, 110.0), (3600, 3600.0)])
async def test_a_page_has_the_time_that_was_set_for_it(tmp_path, name, timeout, seconds):
    """Its worker is not replaced in the middle; a batch has no more."""
    async with loaded(tmp_path, name, timeout=timeout) as (_, worker):
        assert worker.report.step_timeout == seconds
