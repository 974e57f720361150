"""``POST /drift/trigger-retrain`` against a stand-in of Airflow, versions 2 and 3."""

from __future__ import annotations

import asyncio
import socket

import pytest
from aiohttp import web
from airflow_stand_in import airflow
from serving_reconstruct import asking, session

WHO = {"airflow_username": "ada", "airflow_password": "secret"}
PATH = "/drift/trigger-retrain"


def retraining(stand_in, **settings):
    """Return the settings of a server that asks an Airflow."""
    return {"airflow_url": stand_in.url, **WHO, **settings}


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("told", [False, True])
async def test_a_run_is_begun(tmp_path, version, told):
    """Either version begins a run, whether it is told or found out, with who wanted it."""
    named = {"airflow_version": str(version)} if told else {}
    async with airflow(version) as stand_in:
        chosen = retraining(stand_in, **named)
        async with asking(tmp_path, "root-key", reconstruct=chosen) as ask:
            status, answer = await ask("POST", PATH)
    assert (status, answer["status"]) == (200, "triggered")
    assert "already" not in answer
    assert answer["dag_run_id"].startswith("manual-20")
    assert stand_in.runs == {answer["dag_run_id"]: {"reason": "manual", "requested_by": "root"}}


async def test_cooldown(tmp_path):
    """Within the cooldown the earlier run is told, also by a server that was started anew."""
    async with airflow(3) as stand_in:
        first = None
        for _ in range(2):
            chosen = retraining(stand_in)
            async with asking(tmp_path, "root-key", reconstruct=chosen) as ask:
                first = first or (await ask("POST", PATH))[1]
                status, again = await ask("POST", PATH)
                assert (status, again) == (200, {**first, "already": True})
    assert len(stand_in.asked) == 1


async def test_many_at_once_begin_one_run(tmp_path):
    """Of ten requests at once one begins a run."""
    async with airflow(3) as stand_in:
        chosen = retraining(stand_in)
        async with asking(tmp_path, "root-key", reconstruct=chosen) as ask:
            answers = await asyncio.gather(*(ask("POST", PATH) for _ in range(10)))
    assert {status for status, _ in answers} == {200}
    assert sum("already" not in answer for _, answer in answers) == 1
    assert len(stand_in.runs) == 1


async def test_a_run_that_exists_is_not_begun_twice(tmp_path):
    """Airflow's 409 for the minute's run is 200 with ``already``."""
    async with airflow(3) as stand_in:
        chosen = retraining(stand_in, cooldown_hours=0.0)
        async with asking(tmp_path, "root-key", reconstruct=chosen) as ask:
            answers = [(await ask("POST", PATH))[1] for _ in range(3)]
    assert len(stand_in.runs) == len({each["dag_run_id"] for each in answers}) <= 2
    assert any(each.get("already") for each in answers)


async def test_a_token_that_is_over_is_replaced(tmp_path):
    """A token is kept; when Airflow refuses it, another is got, once."""
    async with airflow(3) as stand_in:
        chosen = retraining(stand_in, cooldown_hours=0.0)
        async with asking(tmp_path, "root-key", reconstruct=chosen) as ask:
            for _ in range(2):
                assert (await ask("POST", PATH))[0] == 200
            assert stand_in.tokens == 1
            stand_in.tokens += 1  # the one that was given counts no more
            assert (await ask("POST", PATH))[0] == 200
    assert stand_in.tokens == 3
    assert len(stand_in.asked) == 4


async def test_a_token_of_the_settings(tmp_path):
    """A token that the settings hold is shown, and nobody logs in."""
    async with airflow(3) as stand_in:
        chosen = {"airflow_url": stand_in.url, "airflow_token": "of-the-settings"}
        async with asking(tmp_path, "root-key", reconstruct=chosen) as ask:
            assert (await ask("POST", PATH))[0] == 200
    assert stand_in.tokens == 0


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"airflow_password": "wrong"}, "rejected the credentials"),
        ({"airflow_password": None, "airflow_username": None}, "rejected the credentials"),
        ({"airflow_username": None, "airflow_token": "wrong"}, "rejected the credentials"),
        ({"dag": "another"}, "no DAG another"),
        ({"airflow_version": "2"}, "no DAG"),
    ],
)
async def test_what_airflow_refuses_is_502(tmp_path, settings, why):
    """What Airflow does not take is 502 with the reason, costs no cooldown, and tells no secret."""
    async with airflow(3) as stand_in:
        chosen = retraining(stand_in, **settings)
        async with asking(tmp_path, "root-key", reconstruct=chosen) as ask:
            for _ in range(2):
                status, answer = await ask("POST", PATH)
                assert status == 502
                assert why in answer["detail"]
                assert "secret" not in answer["detail"]
    assert stand_in.runs == {}


ANSWERS = {
    "unwell": (lambda: web.Response(status=500, text="<html>"), "answered 500"),
    "away": (lambda: web.Response(status=503), "answered 503"),
    "a page": (lambda: web.Response(text="<html>log in</html>"), "no JSON"),
    "elsewhere": (lambda: web.Response(status=302, headers={"Location": "/x"}), "answered 302"),
    "not taken": (lambda: web.json_response({}, status=422), "did not take"),
    "busy": (lambda: web.Response(status=429, headers={"Retry-After": "7"}), "is overloaded"),
}


async def test_what_airflow_answers_is_502(tmp_path):
    """Whatever is no success is 502; a time to wait is handed on; then it may be tried again."""
    async with airflow(3) as stand_in:
        chosen = retraining(stand_in)
        async with asking(tmp_path, "root-key", reconstruct=chosen) as ask:
            for kind, (answer, why) in ANSWERS.items():
                stand_in.answer = answer
                status, told = await ask("POST", PATH)
                assert status == 502, kind
                assert why in told["detail"]
                assert ask.headers.get("Retry-After") == ("7" if kind == "busy" else None)
            stand_in.answer = None
            assert (await ask("POST", PATH))[0] == 200


async def test_nobody_listens(tmp_path):
    """An Airflow that is not there is 502."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{probe.getsockname()[1]}"
    async with asking(tmp_path, "root-key", reconstruct={"airflow_url": url, **WHO}) as ask:
        status, answer = await ask("POST", PATH)
    assert (status, answer["detail"]) == (502, "Airflow cannot be reached")


async def test_only_administrators_retrain(tmp_path):
    """Who may upload may not begin a run."""
    async with airflow(3) as stand_in:
        chosen = retraining(stand_in)
        async with asking(tmp_path, "ada-key", reconstruct=chosen) as ask:
            assert (await ask("POST", PATH))[0] == 403
            async with session(ask.served, "reader-key") as reader:
                assert (await reader("POST", PATH))[0] == 403
    assert stand_in.asked == []
