"""A Ray cluster that asks for a token: who has none is refused. ``make test-ray`` runs it."""

from __future__ import annotations

import os
import secrets

import pytest

from api_answers import until
from mataserver.errors import Unavailable
from mataserver_ray.engine import RayEngine
from ray_nodes import TESTS, RayNodes
from test_engine_contract import PLACE, answers, assignment, job, labels, started

__all__ = ["assignment"]

pytestmark = pytest.mark.timeout(300)
SOON = 100.0


@pytest.fixture(scope="module")
def token(tmp_path_factory):
    """A file with a token, which only its owner may read."""
    path = tmp_path_factory.mktemp("token") / "token"
    path.touch(0o600)
    path.write_text(secrets.token_hex(32))
    return path


@pytest.fixture(scope="module")
def nodes(token):
    """A head with room, and another node: both ask for the token, and have it."""
    asked = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}
    made = RayNodes(cpu=1, environment={**TESTS, **asked})
    try:
        made.start_head(cpu=1)
        made.add("other")
        yield made
    finally:
        made.close()


async def test_who_has_the_token_is_let_in(nodes, token, assignment, monkeypatch):
    """By the variables that Ray itself reads; both nodes take workers."""
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(token))
    engine = RayEngine(nodes.address, room=SOON)
    try:
        async with started(engine, assignment) as one, started(engine, assignment) as two:
            assert one.node.id != two.node.id
            for worker in (one, two):
                assert labels(await answers(worker, job())) == ["16"]
            assert len(await engine.nodes()) == 2
    finally:
        await engine.close()


@pytest.mark.parametrize("given", ["", "wrong"])
async def test_who_has_not_is_told(nodes, assignment, monkeypatch, caplog, given):
    """Nothing is placed: 503 within seconds, and the log says why."""
    if given:
        monkeypatch.setenv("RAY_AUTH_MODE", "token")
        monkeypatch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))
    else:
        monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    engine = RayEngine(nodes.address, room=SOON)
    try:
        with pytest.raises(Unavailable, match="out of reach"):
            await engine.start(assignment, PLACE)
        assert engine.waiting == {"ray": "The Ray cluster is out of reach"}
        await until(lambda: "out of reach: " in caplog.text, SOON)
    finally:
        await engine.close()
    assert "if the cluster asks for a token" in caplog.text, caplog.text
    assert os.environ.get("RAY_AUTH_TOKEN", "-") not in caplog.text
