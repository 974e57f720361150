"""``POST /drift/trigger-retrain`` against a real Airflow: ``make test-airflow``."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS), str(Path(__file__).resolve().parent)]

from airflow_environment import RealAirflow  # noqa: E402
from serving_reconstruct import asking  # noqa: E402

pytestmark = pytest.mark.timeout(600)

PATH = "/drift/trigger-retrain"


@pytest.fixture(scope="module")
def airflow(tmp_path_factory):
    """A real Airflow, whose server runs."""
    made = RealAirflow(tmp_path_factory.mktemp("airflow"))
    with made.serving():
        yield made


def retraining(airflow, **settings):
    """Return the settings of a server that asks an Airflow."""
    own = {"airflow_username": "admin", "airflow_password": airflow.password}
    return {"airflow_url": airflow.url, **own, **settings}


@pytest.mark.parametrize("version", ["auto", "3"])
async def test_a_run_is_begun(airflow, version, tmp_path):
    """The run stands in Airflow, queued, with who wanted it; the minute's second is no other."""
    chosen = retraining(airflow, airflow_version=version, cooldown_hours=0.0)
    before = airflow.runs()
    async with asking(tmp_path, "root-key", reconstruct=chosen) as ask:
        answers = [await ask("POST", PATH) for _ in range(3)]
    assert [status for status, _ in answers] == [200, 200, 200]
    assert any(answer.get("already") for _, answer in answers)
    ids = {answer["dag_run_id"] for _, answer in answers}
    runs = airflow.runs()
    assert ids <= set(runs)
    assert set(runs) - set(before) <= ids
    for run in ids:
        assert runs[run]["state"] == "queued"
        assert runs[run]["conf"] == {"reason": "manual", "requested_by": "root"}


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"airflow_password": "wrong"}, "rejected the credentials"),
        ({"airflow_password": None, "airflow_username": None}, "rejected the credentials"),
        ({"airflow_username": None, "airflow_token": "wrong"}, "rejected the credentials"),
        ({"dag": "another"}, "no DAG another"),
        ({"airflow_version": "2"}, "another API"),
    ],
)
async def test_what_airflow_refuses_is_502(airflow, settings, why, tmp_path):
    """What the real one does not take is 502 with the reason that the stand-in gives, too."""
    before = airflow.runs()
    chosen = retraining(airflow, **settings)
    async with asking(tmp_path, "root-key", reconstruct=chosen) as ask:
        status, answer = await ask("POST", PATH)
    assert (status, why in answer["detail"]) == (502, True), answer
    assert airflow.runs() == before


async def test_an_airflow_that_comes_back(tmp_path):
    """One that is gone is 502; its next server, to whom the old token is void, gets a new one."""
    home = tmp_path / "airflow"
    home.mkdir()
    (tmp_path / "served").mkdir()
    airflow = await asyncio.to_thread(RealAirflow, home)
    with contextlib.ExitStack() as first:
        await asyncio.to_thread(first.enter_context, airflow.serving("first"))
        chosen = retraining(airflow, cooldown_hours=0.0)
        async with asking(tmp_path / "served", "root-key", reconstruct=chosen) as ask:
            assert (await ask("POST", PATH))[0] == 200
            first.close()
            assert (await ask("POST", PATH))[0] == 502
            await asyncio.to_thread(first.enter_context, airflow.serving("second"))
            status, answer = await ask("POST", PATH)
            assert (status, answer["status"]) == (200, "triggered")
