"""What a Triton takes badly, through the fleet: a large model, a long form, a body in drops."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import sys
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import pytest

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS), str(Path(__file__).resolve().parent)]

from onnx_files import adding  # noqa: E402
from real_cases import ASKED, client, infer, shop, tritons, until  # noqa: E402
from test_models import push  # noqa: E402

__all__ = ["client", "tritons"]

PUSH_MB = int(os.environ.get("FLEET_PUSH_MB", "40"))


def long_onnx(megabytes):
    """Return a model that has so many megabytes, all of which its reader reads: a description."""
    size, field = megabytes * 1_000_000, bytearray(b"\x32")  # doc_string, behind all others
    left = size
    while left > 127:
        field.append(left & 127 | 128)
        left >>= 7
    return adding(1) + bytes(field) + bytes([left]) + b"x" * size


@pytest.mark.timeout(300)
async def test_a_large_model(client, tritons):
    """It arrives whole by gRPC and as HTTP's base64."""
    await push(client, "m", {"model.onnx": long_onnx(PUSH_MB)})
    status, done = await client.ask("POST", "/api/models/m/load")
    assert (status, done["status"]) == (200, "ok"), done
    async with aiohttp.ClientSession() as http:
        for each in tritons:
            answer = await infer(http, f"{each.url}/v2/models/m/infer")
            assert answer == (200, [2.0, 3.0, 4.0])


FORM = {"Content-Type": "application/x-www-form-urlencoded"}


def padded(size):
    """Return a request that has so many bytes, most of which say nothing."""
    return json.dumps(ASKED).encode().ljust(size)


async def in_drops(url, key):
    """Send a request in chunks of two bytes; return the answer's first line, empty for none."""
    place, body = urlsplit(url), padded(3_000_000)
    chunks = b"".join(b"2\r\n" + body[i : i + 2] + b"\r\n" for i in range(0, len(body), 2))
    reader, writer = await asyncio.open_connection(place.hostname, place.port)
    head = f"POST {place.path} HTTP/1.1\r\nHost: {place.netloc}\r\napikey: {key}\r\n"
    try:
        writer.write(head.encode() + b"Transfer-Encoding: chunked\r\n\r\n" + chunks)
        writer.write(b"0\r\n\r\n")
        await writer.drain()
        return await reader.readline()
    except OSError:  # whom it kills does not answer
        return b""
    finally:
        writer.transport.abort()


async def test_what_kills_a_triton(client, tritons):
    """A long form and a body in drops do, sent to it directly; by the gateway they are answered."""
    await push(client, "m", {"model.onnx": adding(1)})
    assert (await client.ask("POST", "/api/models/m/load"))[0] == 200
    url, key = await shop(client)
    async with aiohttp.ClientSession(headers={"apikey": key}) as http:
        await until(lambda: served(http, url))
        async with http.post(url, data=io.BytesIO(padded(10_500_000)), headers=FORM) as response:
            assert response.status == 200
        assert b" 200 " in await in_drops(url, key)
        for each in tritons:
            assert (await infer(http, f"{each.url}/v2/models/m/infer"))[0] == 200
        direct = [f"{each.url}/v2/models/m/infer" for each in tritons]
        with contextlib.suppress(aiohttp.ClientError):
            async with http.post(direct[0], data=io.BytesIO(padded(10_500_000)), headers=FORM):
                pass
        await in_drops(direct[1], key)
        for each in tritons:
            await until(lambda e=each: asyncio.sleep(0, e.ended))


async def served(http, url):
    """Whether the gateway answers for the model."""
    return (await infer(http, url))[0] == 200
