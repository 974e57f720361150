"""What passes for a front-end: whoever answers at an address of the shared directory."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time

import aiohttp
import pytest

from api_answers import problem
from conftest import FAKES, register
from mataserver.frontends.identity_assertions import IdentityAssertions
from stream_peers import closed_with, eventually, open_session
from test_frontends import front, sees

GARBAGE = {
    "nothing": b"",
    "no HTTP": b"SSH-2.0-OpenSSH_9.2\r\n",
    "another status": b"HTTP/1.1 204 No Content\r\n\r\n",
    "no JSON": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
    "no text": b'HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n["\xff"]',
    "cut off": b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n[]",
    "elsewhere": b"HTTP/1.1 302 Found\r\nLocation: /other\r\nContent-Length: 0\r\n\r\n",
    "no trust": b"HTTP/1.1 401 No\r\nContent-Type: text/plain; charset=utf-16\r\n"
    b"Content-Length: 3\r\n\r\n\xff\xfe\x00",
    "without end": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
}
PIECE = b"100000\r\n" + bytes(0x100000) + b"\r\n"
TAG = "beef"


@contextlib.asynccontextmanager
async def pretender(folder, answer):
    """Run what says that it is a front-end, and answers everything in one way; yield the heads."""
    heads = []

    async def speak(reader, writer):
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            heads.append(await reader.readuntil(b"\r\n\r\n"))
            writer.write(answer)
            for _ in range(64 if answer.endswith(b"chunked\r\n\r\n") else 0):
                writer.write(PIECE)
                await writer.drain()
        writer.close()

    async def live():
        beat = 0
        while True:
            beat += 1
            entry = {"address": f"http://127.0.0.1:{port}", "beat": beat}
            made = folder / "frontends" / "made.tmp"
            made.write_text(json.dumps(entry))
            made.replace(folder / "frontends" / f"{TAG}.json")
            await asyncio.sleep(0.05)

    async with await asyncio.start_server(speak, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        living = asyncio.create_task(live())
        try:
            yield heads
        finally:
            living.cancel()


@pytest.mark.parametrize("kind", GARBAGE)
async def test_a_front_end_that_answers_garbage(tmp_path, kind):
    """Lists are 503 and sockets closed in good order: nothing is a failure of the server."""
    register(tmp_path / "shared", {f"fake-{task}": task for task in FAKES})
    async with (
        front(tmp_path, "one") as one,
        pretender(tmp_path / "shared", GARBAGE[kind]) as heads,
    ):
        await eventually(lambda: sees(one, 2))
        async with one.http.get("/v1/sessions") as response:
            assert response.status == 503, await response.text()
        async with one.http.ws_connect(f"/v1/stream/sess_{TAG}01234567") as ws:
            assert await closed_with(ws) == 1013
        if kind in {"nothing", "no HTTP", "no trust", "cut off"}:
            async with one.http.get(f"/v1/sessions/sess_{TAG}01234567") as response:
                assert response.status == 503, await response.text()
        assert not [head for head in heads if b"/other" in head]


async def test_a_word_for_one_front_end_counts_for_no_other(tmp_path):
    """Whoever listens at the address of one that is gone cannot ask the others in our name."""
    register(tmp_path / "shared", {f"fake-{task}": task for task in FAKES})
    shared = tmp_path / "shared"
    async with (
        front(tmp_path, "one") as one,
        front(tmp_path, "two") as two,
        pretender(shared, GARBAGE["nothing"]) as heads,
    ):
        await eventually(lambda: sees(one, 3))
        async with one.http.get("/v1/sessions") as response:
            assert response.status == 503
        head = heads[0].decode()
        [word] = [line for line in head.splitlines() if line.startswith("X-Mataserver-Vouched")]
        replayed = {"X-Mataserver-Vouched": word.partition(": ")[2]}
        async with (
            aiohttp.ClientSession() as thief,
            thief.get(f"{two.served.url}/v1/sessions", headers=replayed) as response,
        ):
            await problem(response, 401)


@pytest.mark.parametrize("address", ["http://[", "http://h:99999", "ftp://h", "nonsense"])
async def test_an_entry_without_an_address_is_no_front_end(tmp_path, address):
    """What cannot be asked is not: lists are whole without it."""
    register(tmp_path / "shared", {f"fake-{task}": task for task in FAKES})
    async with front(tmp_path, "one") as one:
        entry = {"address": address, "beat": 1}
        (tmp_path / "shared" / "frontends" / f"{TAG}.json").write_text(json.dumps(entry))
        for path in ("/v1/sessions", "/v1/frontends"):
            async with one.http.get(path) as response:
                assert response.status == 200, await response.text()
        async with one.http.get(f"/v1/sessions/sess_{TAG}01234567") as response:
            await problem(response, 404)


async def test_clocks_that_differ_are_told(tmp_path, monkeypatch, caplog):
    """By an hour: 503 and 1013 at once, with the cause in the log; nothing else is held up."""
    register(tmp_path / "shared", {f"fake-{task}": task for task in FAKES})

    def ahead(secret):
        return IdentityAssertions(secret, lambda: time.time() + 3600)

    async with front(tmp_path, "one") as one:
        monkeypatch.setattr("mataserver.http.frontends.IdentityAssertions", ahead)
        async with front(tmp_path, "two") as two:
            await eventually(lambda: sees(one, 2))
            session = await open_session(two.http)
            for path in (f"/v1/sessions/{session}", "/v1/sessions"):
                async with one.http.get(path) as response:
                    assert response.status == 503
            async with one.http.ws_connect(f"/v1/stream/{session}") as ws:
                assert await closed_with(ws) == 1013
            async with one.http.get("/v1/models") as response:
                assert response.status == 200
    said = [each.getMessage() for each in caplog.records if each.name == "mataserver.frontends"]
    assert sum("clocks of the front-ends differ" in each for each in said) == 3
