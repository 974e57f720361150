"""What every answer of the API is held to, and requests that no HTTP library would send."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import re

JSON = "application/json"
_LEAKS = re.compile(
    r"Traceback|File \"|line \d+|\.py\b|site-packages|secret|test-key|0x[0-9a-f]{6}"
    r"|(?<![\w.])/(tmp|root|home|usr|work|opt|var|proc)/"
)


FIGURES = frozenset({"device", "needed_mb", "free_mb", "limit_mb"})
"""What the error of a model that does not fit has beside its sentence."""


def no_leak(text: str) -> None:
    """Assert that nothing in ``text`` shows a traceback, a path of this machine or a secret."""
    found = _LEAKS.search(text)
    assert found is None, f"{found[0]!r} in {text!r}"


async def problem(response, status: int) -> str:
    """Assert that an answer is the API's error with ``status``; return its detail."""
    body = await response.read()
    assert response.status == status, body
    assert response.content_type == JSON
    assert response.headers["X-Request-Id"]
    return detail_of(body, FIGURES if status == 507 else frozenset())


def detail_of(body: bytes, figures: frozenset[str] = frozenset()) -> str:
    """Return the one sentence of an error's body, which may hold ``figures`` and nothing else."""
    decoded = json.loads(body)
    assert set(decoded) in ({"detail"}, {"detail", *figures})
    detail = decoded["detail"]
    assert isinstance(detail, str)
    assert 3 < len(detail) < 400
    assert "\n" not in detail
    no_leak(detail)
    return detail


def asking(model: str, image: bytes, **params) -> dict:
    """Return the JSON body of an inference."""
    return {"model": model, "image": base64.b64encode(image).decode(), "params": params}


async def infer(http, model: str, image: bytes, **params) -> dict:
    """Infer over JSON; return the answer, which must be 200."""
    async with http.post("/v1/infer", json=asking(model, image, **params)) as response:
        body = await response.json()
        assert response.status == 200, body
        return body


async def refused(http, status: int, path: str, **request) -> str:
    """POST something that must be answered with the error ``status``; return the detail."""
    async with http.post(path, **request) as response:
        return await problem(response, status)


def head_of(server, path: str, *headers: str, method: str = "POST") -> bytes:
    """Return the head of a request with the server's key."""
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost", f"Authorization: Bearer {server.key}"]
    return "\r\n".join([*lines, *headers, "", ""]).encode("latin-1")


@contextlib.asynccontextmanager
async def connection(server):
    """Yield reader and writer of a raw connection to the server."""
    port = int(server.url.rpartition(":")[2])
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield reader, writer
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


async def answer(reader) -> tuple[int, dict[str, str], bytes]:
    """Read one answer: status, headers with lower-case names, body."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    headers = {k.lower(): v for k, _, v in (line.partition(": ") for line in head[1:] if line)}
    body = await reader.readexactly(int(headers.get("content-length", 0)))
    return int(head[0].split()[1]), headers, body


async def exchange(server, *parts: bytes) -> tuple[int, dict[str, str], bytes]:
    """Send bytes on a connection of their own; return the answer."""
    async with connection(server) as (reader, writer):
        for part in parts:
            writer.write(part)
            await writer.drain()
        return await answer(reader)


async def until(condition, seconds: float = 20.0) -> None:
    """Wait until ``condition()`` (plain or awaitable) holds; fail when it never does."""
    async with asyncio.timeout(seconds):
        while True:
            value = condition()
            if await value if asyncio.iscoroutine(value) else value:
                return
            await asyncio.sleep(0.01)
