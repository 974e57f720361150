"""What is read of a job: its events, its files in parts, what it printed."""

from __future__ import annotations

import json

import pytest
from serving_jobs import KEYS, asking


@pytest.fixture
async def ask(tmp_path):
    """A server that is asked with Ada's key."""
    async with asking(tmp_path, key="ada-key", api_keys=KEYS) as asked:
        yield asked


def events_of(text):
    """Return the events of a stream: id, name, decoded value."""
    found = []
    for block in text.strip().split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines())
        found.append((fields["id"], fields["event"], json.loads(fields["data"])))
    return found


async def test_a_job_is_followed(ask):
    """Events tell each new state until the end; who has seen the last one is told no more."""
    job = await ask.count(150)
    _, body = await ask("GET", f"/v1/jobs/{job}/events")
    events = events_of(body.decode())
    assert [name for _, name, _ in events] == ["job"] * (len(events) - 1) + ["end"]
    progress = [value["progress"] for _, _, value in events]
    assert progress == sorted(progress)
    assert len(progress) > 2
    assert events[-1][2]["state"] == "done"
    last = {"Last-Event-ID": events[-1][0]}
    assert (await ask("GET", f"/v1/jobs/{job}/events", headers=last))[0] == 204
    first = {"Last-Event-ID": events[0][0]}
    _, body = await ask("GET", f"/v1/jobs/{job}/events", headers=first)
    assert events_of(body.decode()) == events[-1:]


async def test_a_follower_goes_on_where_it_was(ask):
    """A state that a client has seen is not told again when it connects anew."""
    await ask.count(300)
    queued = await ask.count(1)
    async with ask.session.get(f"/v1/jobs/{queued}/events") as response:
        (seen, _, _) = events_of((await response.content.readuntil(b"\n\n")).decode())[0]
    headers = {"Last-Event-ID": seen}
    async with ask.session.get(f"/v1/jobs/{queued}/events", headers=headers) as response:
        (fresh, _, value) = events_of((await response.content.readuntil(b"\n\n")).decode())[0]
    assert fresh != seen
    assert value["state"] != "queued"


async def test_parts_of_files(ask):
    """A range is 206, of another file the whole, one beyond the end 416; one unchanged is 304."""
    job = await ask.count(10)
    await ask.ended(job)
    path = f"/v1/jobs/{job}/files/steps"
    async with ask.session.get(path, headers={"Range": "bytes=2-4"}) as response:
        assert (response.status, await response.read()) == (206, b"1\n2")
        assert response.headers["Content-Range"] == "bytes 2-4/20"
        tag = response.headers["ETag"]
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        assert response.headers["Cache-Control"] == "private, no-cache"  # the next one asks, too
        policy = response.headers["Content-Security-Policy"].split("; ")
        assert policy == ["default-src 'none'", "sandbox"]  # neither scripts nor forms
    for known, status in ((tag, 206), ('"another"', 200), (f"W/{tag}", 200)):
        headers = {"Range": "bytes=2-4", "If-Range": known}
        async with ask.session.get(path, headers=headers) as response:
            assert (response.status, len(await response.read())) == (
                status,
                {206: 3, 200: 20}[status],
            )
    assert (await ask("GET", path, headers={"Range": "bytes=99-"}))[0] == 416
    async with ask.session.get(path, headers={"If-None-Match": tag}) as response:
        assert response.status == 304
    async with ask.session.head(path) as response:
        assert (response.status, response.headers["Content-Length"]) == (200, "20")
    _, document = await ask("GET", "/openapi.json")
    answers = document["paths"]["/v1/jobs/{id}/files/{name}"]["get"]["responses"]
    assert answers["206"]["content"].keys() == answers["200"]["content"].keys()
    assert not {"content"} & {key for status in ("304", "412", "416") for key in answers[status]}


@pytest.mark.parametrize(
    ("asked", "status", "length"),
    [
        ("bytes=-3", 206, 3),
        ("bytes=-99", 206, 20),
        ("Bytes=17-99", 206, 3),
        ("bytes=-0", 416, 0),
        ("bytes=20-", 416, 0),
        ("bytes=0-1,3-4", 200, 20),
        ("items=0-1", 200, 20),
        ("bytes=5-2", 200, 20),
        ("bytes=a-b", 200, 20),
        ("bytes=-", 200, 20),
        (f"bytes=0-{'9' * 5000}", 200, 20),
        ("", 200, 20),
    ],
)
async def test_ranges_as_the_standard_says(ask, asked, status, length):
    """What is no single range of bytes is passed over; no last byte is asked for in vain."""
    job = await ask.count(10)
    await ask.ended(job)
    path, headers = f"/v1/jobs/{job}/files/steps", {"Range": asked}
    async with ask.session.get(path, headers=headers) as response:
        assert response.status == status
        told = response.headers.get("Content-Range", "")
        assert told.endswith("/20") == (status != 200)
        if status != 416:
            assert len(await response.read()) == length
    async with ask.session.head(path, headers=headers) as response:
        assert (response.status, response.headers["Content-Length"]) == (200, "20")


@pytest.mark.parametrize(
    "name",
    [
        "..%2finput%2fgiven",
        "../input/given",
        "%2e%2e/log",
        "link",
        "folder/",
        "folder",
        "%2fetc%2fpasswd",
    ],
)
async def test_files_that_are_none_of_the_result(ask, tmp_path, name):
    """What lies outside a job's output, a link, and a folder are 404."""
    job = await ask.count(1)
    await ask.ended(job)
    output = tmp_path / "jobs" / job / "output"
    (output / "link").symlink_to(tmp_path / "model_registry.json")
    (output / "folder").mkdir()
    (output / "outside").symlink_to(tmp_path)
    url = ask.served.url + f"/v1/jobs/{job}/files/{name}"
    from yarl import URL

    async with ask.session.get(URL(url, encoded=True)) as response:
        assert response.status == 404, await response.read()
    assert [each["name"] for each in (await ask("GET", f"/v1/jobs/{job}/files"))[1]["files"]] == [
        "steps"
    ]


async def test_what_a_job_printed(ask):
    """The end of the log is plain text; the reason of a failure stands in it and not in the job."""
    status, job = await ask("POST", "/lab/misbehave", json={"how": "raise"})
    assert status == 202
    shown = await ask.ended(job["id"])
    assert shown["state"] == "failed"
    assert "secret" not in shown["error"]
    _, text = await ask("GET", f"/v1/jobs/{job['id']}/log")
    assert b"secret detail" in text
    assert len((await ask("GET", f"/v1/jobs/{job['id']}/log?bytes=10"))[1]) == 10
    assert (await ask("GET", f"/v1/jobs/{job['id']}/log?bytes=0"))[0] == 422
    assert (await ask("GET", f"/v1/jobs/{job['id']}/log?bytes=10&bytes=20"))[0] == 422
