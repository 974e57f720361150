"""The replacement of a replica that died: whatever goes wrong with it, it is tried again."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import time

import psutil
import pytest

from api_answers import until
from mataserver import Classification, ClassifyResult, Params
from mataserver.contract.backend import LoadContext, ModelSpec
from mataserver.engines.process import ProcessEngine
from mataserver.engines.replicas import Replicas
from mataserver.engines.work import Assignment, Placement
from open_files import no_descriptors

pytestmark = pytest.mark.long

LOADS, HANGS = "loads", "hangs"
ENOUGH = 60.0


class Labeller:
    """A model like any other."""

    def predict(self, images, _params):
        """Answer each image."""
        return [ClassifyResult([Classification("thing", 1.0)]) for _ in images]


def load(_spec, context):
    """Note the process, then load; a load hangs as long as the data directory says so."""
    with (context.data_dir / LOADS).open("a") as file:
        file.write(f"{os.getpid()}\n")
    while (context.data_dir / HANGS).exists():
        time.sleep(0.02)
    return Labeller()


def loads(folder):
    """Return the processes that began to load, in order."""
    return [int(line) for line in (folder / LOADS).read_text().splitlines()]


def runs(pid):
    """Whether a process lives."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    return False


@pytest.fixture
async def replicas(tmp_path):
    """Two replicas in processes of their own; a replacement may take 2 s to load."""
    log = logging.getLogger("replacement")
    context = LoadContext(None, "cpu", "auto", 1, tmp_path, log)
    spec = ModelSpec("labeller", "classify", "pip")
    assignment = Assignment(load, Params, spec, context, decode_threads=1)
    engine = ProcessEngine()
    made = Replicas(lambda _: engine.start(assignment, Placement("labeller")), 2, 2.0)
    await made.load()
    try:
        yield made
    finally:
        await made.close()
        await engine.close()


async def shoot(replicas):
    """Kill the first replica; return when its death was noticed."""
    os.kill(replicas.pids[0], signal.SIGKILL)
    await until(lambda: len(replicas.pids) == 1, ENOUGH)


async def test_a_replacement_that_hangs_is_given_up(replicas, tmp_path, caplog):
    """A replica whose load hangs is killed after ``load_timeout``, and tried again."""
    (tmp_path / HANGS).touch()
    await shoot(replicas)
    await until(lambda: len(loads(tmp_path)) == 4, ENOUGH)
    await until(lambda: not runs(loads(tmp_path)[2]), ENOUGH)
    (tmp_path / HANGS).unlink()
    await until(lambda: len(replicas.pids) == 2, ENOUGH)
    assert set(replicas.pids) <= set(loads(tmp_path))
    assert "a replica cannot be replaced: it did not load within 2 s" in caplog.text


async def test_a_replacement_that_the_system_refuses_is_tried_again(replicas, caplog):
    """Without a file descriptor left no process can be started; once there is one, it is."""
    await shoot(replicas)
    with no_descriptors():
        await until(lambda: "a replica cannot be replaced" in caplog.text, ENOUGH)
    assert "Too many open files" in caplog.text
    assert replicas.is_alive
    await until(lambda: len(replicas.pids) == 2, ENOUGH)
