"""What every engine holds, on a real Ray cluster of two nodes; one of them is killed at the end.

``make test-ray`` does more to larger ones.
"""

from __future__ import annotations

import asyncio
import dataclasses
import importlib.util

import pytest
import pytest_asyncio

from mataserver.config.needs import Needs
from mataserver.engines.worker_errors import NodeDied
from mataserver_ray.engine import RayEngine
from ray_nodes import TESTS, RayNodes
from test_engine_contract import (
    a_crash,
    answers,
    assignment,
    job,
    labels,
    started,
    test_a_hang_is_noticed,
    test_a_load_that_is_refused_says_why,
    test_sessions_keep_their_state,
    test_what_nobody_waits_for_is_not_done,
    test_work_is_done,
)

__all__ = [
    "assignment",
    "test_a_hang_is_noticed",
    "test_a_load_that_is_refused_says_why",
    "test_sessions_keep_their_state",
    "test_what_nobody_waits_for_is_not_done",
    "test_work_is_done",
]

pytestmark = [
    pytest.mark.ray,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="the extra ray is missing"),
    pytest.mark.timeout(240),
    pytest.mark.long,
]
SOON = 100.0
"""Seconds for what takes some on a machine with other work."""


@pytest.fixture(scope="module")
def nodes():
    """A head that is a node as well, and another node."""
    made = RayNodes(cpu=2, environment=TESTS)
    try:
        made.start_head(cpu=2)
        made.add("other")
        yield made
    finally:
        made.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine(nodes):
    """One engine for all tests."""
    made = RayEngine(nodes.address, room=SOON)
    yield made
    await made.close()


async def test_a_crash_is_its_own_workers(engine, assignment):
    """A process that ends is told to whoever waits, and blamed; its neighbour goes on."""
    await a_crash(engine, assignment)


async def test_a_node_is_killed(engine, nodes, assignment):
    """Its job is told at once and unblamed, its neighbour goes on, and the next one is there."""
    here, there = (
        dataclasses.replace(assignment, needs=Needs(labels={"name": name}))
        for name in ("head", "other")
    )
    async with started(engine, here) as left, started(engine, there) as lost:
        assert left.node.id != lost.node.id
        deaths = []
        lost.on_death(deaths.append)
        (assignment.context.data_dir / "gate").unlink()
        asked = asyncio.create_task(answers(lost, job()))
        await asyncio.sleep(0)  # it is with the worker then
        await asyncio.to_thread(nodes.kill, "other")
        with pytest.raises(NodeDied):
            async with asyncio.timeout(SOON):
                await asked
        assert [death.is_model_fault for death in deaths] == [False]
        (assignment.context.data_dir / "gate").touch()
        assert labels(await answers(left, job())) == ["16"]
        async with started(engine, assignment) as again:
            assert again.node.id == left.node.id
