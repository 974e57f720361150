"""``/v1/jobs`` through a real server: what each route answers, and to whom."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

import aiohttp
import pytest
from serving_jobs import KEYS, SMALL, asking, points, register, session

from mataserver.testing import serving
from mataserver_database.testing import new_database


@pytest.fixture
async def ask(tmp_path):
    """A server that is asked with Ada's key."""
    async with asking(tmp_path, key="ada-key", api_keys=KEYS) as asked:
        yield asked


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request):
    """The settings of a database of each kind."""
    if request.param == "sqlite":
        return {}
    url = asyncio.run(new_database(request.getfixturevalue("postgres"), f"routes_{os.getpid()}"))
    return {"url": url}


async def test_a_job_from_end_to_end(tmp_path, database):
    """A job is submitted, followed, listed, its files are read, and it is removed; on both."""
    async with asking(tmp_path, database=database) as ask:
        job = await ask.count(60)
        shown = await ask.ended(job)
        assert (shown["state"], shown["progress"]) == ("done", 100.0)
        assert shown["result"] == {"counted": 60, "attempt": 1}
        assert shown["spec"] == {"to": 60, "name": "count"}
        assert shown["bytes_used"] > 0
        assert shown["expires_at"] == pytest.approx(shown["finished_at"] + 7 * 86_400)
        _, page = await ask("GET", "/v1/jobs?kind=count&state=done,failed&limit=5")
        assert (page["total"], [each["id"] for each in page["jobs"]]) == (1, [job])
        assert page["jobs"][0] == shown
        for omitted in (["result"], ["spec", "result"]):
            _, page = await ask("GET", f"/v1/jobs?omit={','.join(omitted)}")
            left = {name: value for name, value in shown.items() if name not in omitted}
            assert page["jobs"] == [left]
        assert (await ask("GET", "/v1/jobs?state=queued"))[1]["total"] == 0
        _, listed = await ask("GET", f"/v1/jobs/{job}/files")
        assert [each["name"] for each in listed["files"]] == ["steps"]
        assert (await ask("GET", f"/v1/jobs/{job}/files?name=steps"))[0] == 422
        _, steps = await ask("GET", f"/v1/jobs/{job}/files/steps")
        assert steps.split() == [b"%d" % number for number in range(60)]
        assert (await ask("DELETE", f"/v1/jobs/{job}"))[0] == 204
        assert (await ask("GET", f"/v1/jobs/{job}"))[0] == 404
        assert list((tmp_path / "jobs").iterdir()) == []


async def test_jobs_by_cursor(ask):
    """Each job that stays is listed once while others come and go; another's stay unseen."""
    stay = [await ask.count(1) for _ in range(5)]
    goes = await ask.count(1)
    await ask.ended(goes)
    found, query = [], ""
    while True:
        _, page = await ask("GET", f"/v1/jobs?limit=2{query}")
        found += [each["id"] for each in page["jobs"]]
        if "next_cursor" not in page:
            break
        async with session(ask.served, "bob-key") as bob:
            cursor = f"/v1/jobs?cursor={page['next_cursor']}"
            assert (await bob("GET", cursor))[1]["jobs"] == []
        await ask.count(1)
        if not query:
            assert found[0] == goes
            assert (await ask("DELETE", f"/v1/jobs/{goes}"))[0] == 204
        query = f"&cursor={page['next_cursor']}"
    assert found == [goes, *reversed(stay)]


async def test_whose_jobs(ask):
    """Another's job is 404 on every route; an administrator sees all; scopes are asked for."""
    job = await ask.count(1)
    await ask.ended(job)
    one = f"/v1/jobs/{job}"
    routes = [("GET", one), ("DELETE", one), ("POST", f"{one}/cancel"), ("POST", f"{one}/restart")]
    routes += [("GET", f"{one}/{each}") for each in ("events", "log", "files", "files/steps")]
    async with session(ask.served, "bob-key") as bob:
        for method, path in routes:
            assert (await bob(method, path))[0] == 404, (method, path)
        assert (await bob("GET", "/v1/jobs"))[1]["total"] == 0
    async with session(ask.served, "reader-key") as reader:
        assert (await reader("POST", f"{one}/cancel"))[0] == 403
    async with session(ask.served, "camera-key") as camera:
        assert {(await camera(method, path))[0] for method, path in routes} == {403}
    async with session(ask.served, "root-key") as root:
        assert (await root("GET", one))[1]["owner"].startswith("key:")
        assert (await root("GET", "/v1/jobs"))[1]["total"] == 1
        assert (await root("DELETE", one))[0] == 204
    async with aiohttp.ClientSession(ask.served.url) as nobody, nobody.get(one) as response:
        assert response.status == 401


@pytest.mark.parametrize(
    ("query", "name"),
    [
        ("limit=0", "limit"),
        ("limit=1001", "limit"),
        ("limit=ten", "limit"),
        ("offset=-1", "offset"),
        ("stage=a", "stage"),
        ("offset=99999999999999999", "offset"),
        ("state=gone", "state"),
        ("kind=%00", "kind"),
        ("kind=%FF", "kind"),
        ("omit=result,state", "omit"),
        ("cursor=", "cursor"),
        ("cursor=bm9uZQ==", "cursor"),
        ("cursor=x&offset=0", "cursor"),
    ],
)
async def test_queries_that_are_refused(ask, query, name):
    """A page that cannot be is 422 with the parameter's name."""
    status, body = await ask("GET", f"/v1/jobs?{query}")
    assert status == 422
    assert body["detail"].startswith(f"{name}:")


@pytest.mark.parametrize(
    "job", ["x", "00000000-0000-0000-0000-000000000000", "..%2f..", "'%20or%201=1--", "%00", "é"]
)
async def test_jobs_that_do_not_exist(ask, job):
    """An id that is of no job is 404, whatever stands in it."""
    assert (await ask("GET", f"/v1/jobs/{job}"))[0] == 404
    assert (await ask("GET", f"/v1/jobs/{job}/files/steps"))[0] == 404


async def test_a_job_is_cancelled(ask):
    """A running job stops soon, a queued one at once, an ended one is 409."""
    running, queued = await ask.count(5000), await ask.count(5)
    await ask.until(running, lambda shown: shown["progress"] > 0)
    status, shown = await ask("POST", f"/v1/jobs/{queued}/cancel")
    assert (status, shown["state"]) == (202, "cancelled")
    assert (await ask("DELETE", f"/v1/jobs/{running}"))[0] == 409
    assert (await ask("POST", f"/v1/jobs/{running}/restart"))[0] == 409
    assert (await ask("POST", f"/v1/jobs/{running}/cancel"))[0] == 202
    shown = await ask.ended(running)
    assert shown["state"] == "cancelled"
    assert 0 < shown["progress"] < 100
    assert (await ask("POST", f"/v1/jobs/{running}/cancel"))[0] == 409


async def test_a_job_is_restarted(ask):
    """An ended job runs again with other options; what it made goes, what it was given stays."""
    job = await ask.count(10)
    await ask.ended(job)
    options = {"spec": {"to": 4}}
    status, shown = await ask("POST", f"/v1/jobs/{job}/restart", json=options)
    assert (status, shown["state"], shown["spec"]["to"]) == (202, "queued", 4)
    assert (await ask.ended(job))["result"] == {"counted": 4, "attempt": 1}
    assert (await ask("GET", f"/v1/jobs/{job}/files/steps"))[1].split() == [b"0", b"1", b"2", b"3"]
    for wrong in ({"spec": {"to": "many"}}, {"spec": {"unknown": 1}}, {"sepc": {}}):
        assert (await ask("POST", f"/v1/jobs/{job}/restart", json=wrong))[0] == 422
    assert (await ask("GET", f"/v1/jobs/{job}"))[1]["state"] == "done"


async def test_a_request_that_is_sent_twice(ask):
    """One idempotency key is one job; another request with it is 409 and leaves nothing."""
    key = {"Idempotency-Key": "once"}
    first, second = await ask.count(3, headers=key), await ask.count(3, headers=key)
    assert first == second
    assert (await ask("POST", "/lab/count", json={"to": 4}, headers=key))[0] == 409
    await ask.ended(first)
    assert (await ask("GET", "/v1/jobs"))[1]["total"] == 1


async def test_a_disk_that_is_nearly_full(tmp_path):
    """507 before anything is taken, and nothing is left behind."""
    async with asking(tmp_path, jobs={"min_free_mb": 10**12}) as ask:
        status, body = await ask("POST", "/lab/count", json={"to": 1})
        assert (status, body["detail"]) == (507, "The disk has no room for another job")
        assert (await ask("GET", "/v1/jobs"))[1]["total"] == 0
    assert list((tmp_path / "jobs").iterdir()) == []


async def test_the_budget_of_results(tmp_path):
    """Over the budget the jobs that ended first go, with their files; the newest stay."""
    async with asking(tmp_path, jobs={"results_mb": 1}) as ask:
        jobs = []
        for _ in range(3):
            status, job = await ask("POST", "/lab/count", data=b'{"to": 1}' + b" " * 400_000)
            assert status == 202
            jobs.append(job["id"])
            await ask.ended(job["id"])
        desk = await removed(ask)
        assert desk == 1
        _, page = await ask("GET", "/v1/jobs")
        assert [each["id"] for each in page["jobs"]] == jobs[:0:-1]
        assert {path.name for path in (tmp_path / "jobs").iterdir()} == set(jobs[1:])


async def test_jobs_expire(tmp_path):
    """A job whose time is over goes with its files, and so does an old folder of none."""
    stray = tmp_path / "jobs" / "00000000-0000-4000-8000-000000000000"
    fresh = tmp_path / "jobs" / "00000000-0000-4000-8000-000000000001"
    async with asking(tmp_path, jobs={"keep_days": 1e-7}) as ask:
        job = await ask.count(1)
        await ask.ended(job)
        for folder in (stray, fresh):
            folder.mkdir()
        os.utime(stray, (0, 0))
        await asyncio.sleep(0.02)
        assert await removed(ask) == 1
        assert (await ask("GET", f"/v1/jobs/{job}"))[0] == 404
    assert list((tmp_path / "jobs").iterdir()) == [fresh]


async def removed(ask):
    """Have the old jobs removed now; return how many went."""
    status, body = await ask("POST", "/lab/sweep")
    assert status == 200
    return body["removed"]


async def test_a_server_that_stops_and_starts(tmp_path):
    """A job that runs when its server stops goes on with the next one; no attempt is counted."""
    hold = tmp_path / "hold"
    hold.touch()
    async with asking(tmp_path) as ask:
        job = await ask.count(300)
        await ask.until(job, lambda shown: shown["progress"] > 10)
        begun = time.monotonic()
    assert time.monotonic() - begun < 8
    done = int((tmp_path / "jobs" / job / "work" / "counted").read_text())
    assert done <= 150
    hold.unlink()
    async with asking(tmp_path) as ask:
        shown = await ask.ended(job)
    assert (shown["state"], shown["attempt"]) == ("done", 1)
    steps = (tmp_path / "jobs" / job / "output" / "steps").read_text().split()
    assert len(steps) in {300, 301}  # the step under way may have been done and not noted


async def test_kinds_of_one_name(tmp_path):
    """Of two plugins that bring kinds of one name the later one is not in use, and says why."""
    register(tmp_path)
    twin = [*points(), points()[-1].__class__("twin", "lab_twin", "mataserver")]
    settings = {"jobs": SMALL}
    async with serving(tmp_path, entry_points=twin, plugins=settings, engine="thread") as server:
        found = {each.name: each.error for each in server.composed.plugins.found}
        assert found["twin"] == "its kind of jobs belongs to lab already: count"
        assert {error for name, error in found.items() if name != "twin"} == {None}
        kinds = server.service("jobs").desk.kind("count").run.__module__
        assert kinds == "job_functions"


async def test_a_kind_that_there_is_not(ask):
    """What is sent to one is told which there are, and no method; so is who may not write."""
    kinds = "there are: "
    status, told = await ask("POST", "/v1/jobs/infre", json={"model": "fake-detect"})
    assert status == 404
    assert told["detail"].startswith("There is no kind of jobs named 'infre'; " + kinds)
    assert {"count", "infer"} <= set(told["detail"].partition(kinds)[2].split(", "))
    assert (await ask("POST", "/v1/jobs/count", json={}))[0] == 404, "its route is another"
    async with session(ask.served, "reader-key") as reader:
        assert (await reader("POST", "/v1/jobs/infre", json={}))[0] == 403


async def test_a_job_whose_plugin_is_gone(tmp_path):
    """It waits, and says for what, wherever it is shown; it runs once the plugin is back."""
    async with asking(tmp_path, jobs={"slots": 1}) as ask:
        await ask.count(300)  # what is behind it waits
        job = await ask.count(5)
        assert (await ask("GET", f"/v1/jobs/{job}"))[1]["message"] == "Waiting for its turn."
    waits = "It waits for a plugin: this server has none that runs jobs of the kind count."
    chosen = {"disabled": ["lab"], "jobs": SMALL}
    async with (
        serving(tmp_path, entry_points=points(), plugins=chosen, engine="thread") as served,
        session(served, served.key) as without,
    ):
        assert (await without("GET", f"/v1/jobs/{job}"))[1]["message"] == waits
        _, page = await without("GET", "/v1/jobs?state=queued")
        assert {each["message"] for each in page["jobs"]} == {waits}
        assert job in {each["id"] for each in page["jobs"]}
        status, told = await without("POST", f"/v1/jobs/{job}/restart")
        assert (status, "There is no kind of jobs named 'count'" in told["detail"]) == (404, True)
    async with asking(tmp_path) as ask:
        assert (await ask.ended(job))["state"] == "done"


async def test_it_is_switched_off(tmp_path):
    """Without jobs there is no route of theirs, and what requires them is not in use."""
    register(tmp_path)
    chosen = {"disabled": ["jobs"]}
    async with (
        serving(tmp_path, entry_points=points(), plugins=chosen) as served,
        session(served, served.key) as ask,
    ):
        assert (await ask("GET", "/v1/jobs"))[0] == 404
        _, plugins = await ask("GET", "/v1/plugins")
        (found,) = [each for each in plugins if each["name"] == "lab"]
        assert found["error"] == "it requires the plugin jobs, which is not in use"
    assert not Path(tmp_path / "jobs").exists()
