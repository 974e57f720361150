"""Exchanges whose answers are kept in ``recorded_answers.json``: what clients see must not change.

``python tests/recorded_exchanges.py`` writes the answers anew. Read the difference before it is
committed: every line of it is a change that a client sees.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import grpc

import chat_models
import recorded_requests
import recorded_sam
from conftest import FAKES, register
from mataserver import testing
from recorded_sockets import CALLS, STREAMS, called, streamed
from triton_clients import GRPC, grpc_port

if TYPE_CHECKING:
    from recorded_requests import Exchange

FILE = Path(__file__).with_name("recorded_answers.json")
KEPT = ("content-type", "allow", "www-authenticate", "retry-after", "cache-control", "connection")
PRESENT = ("x-request-id", "server-timing")
TIMES_AND_SIZES = re.compile(
    rb'(\\?["\'](?:timestamp|created|loaded_at|last_used|pulled_at|created_at|inference_ms|memory_mb'
    rb'|size_mb|uptime_seconds|gpu_memory_mb)\\?["\']: ?)(?:-?[\d.e+-]+|null|None|"[^"]*")'
)
NAMES_BY_CHANCE = re.compile(rb"sess_[0-9a-f]{12}|chatcmpl-[\w-]+|127\.0\.0\.1:\d+")
EXCHANGES = (*recorded_requests.EXCHANGES, *recorded_sam.EXCHANGES)


async def answers(*, short_way: bool = True) -> dict[str, Any]:
    """Ask a server with the fake models everything, in order; return what it answered."""
    with tempfile.TemporaryDirectory() as folder:
        models = {f"fake-{task}": task for task in FAKES} | dict.fromkeys(chat_models.NAMES, "vlm")
        models |= {"fake-absent": "detect", recorded_sam.NAME: "segment"}
        register(Path(folder), models)
        points = (
            testing.FAKE, chat_models.POINT, recorded_sam.POINT_OF_ENTRY,
            *testing.installed("cameras", "oip", "openai", "sam"),
        )  # fmt: skip
        async with (
            testing.serving(
                Path(folder),
                entry_points=points,
                engine="thread",
                max_sessions=1_000,
                short_way=short_way,
                plugins={"sam": {"model": recorded_sam.NAME}, **GRPC["plugins"]},
            ) as served,
            aiohttp.ClientSession(served.url) as http,
            grpc.aio.insecure_channel(f"127.0.0.1:{grpc_port(served)}") as channel,
        ):
            found: dict[str, Any] = {}
            for each in EXCHANGES:
                found[each.name] = await _answer(http, each)
            for name, stream in STREAMS.items():
                told = await streamed(http, stream)
                found[f"stream: {name}"] = [_text(each.encode()) for each in told]
            for name, call in CALLS.items():
                found[f"gRPC: {name}"] = _text((await called(channel, call)).encode())
    return found


async def _answer(http: aiohttp.ClientSession, each: Exchange) -> dict[str, Any]:
    headers = dict(each.headers)
    if each.key is not None:
        headers["Authorization"] = f"Bearer {each.key}"
    skipped = ("Content-Type",) if "Content-Type" not in headers else ()
    async with http.request(
        each.method, each.path, data=each.body, headers=headers, skip_auto_headers=skipped,
        allow_redirects=False,
    ) as response:  # fmt: skip
        body = await response.read()
        kept = {name: response.headers[name] for name in KEPT if name in response.headers}
        absent = [name for name in PRESENT if name not in response.headers]
        return {"status": response.status, "headers": kept, "lacks": absent, "body": _text(body)}


def _text(body: bytes) -> str:
    """Return a body without what differs from run to run; a long or binary one as its digest."""
    body = TIMES_AND_SIZES.sub(rb'\1"..."', body)
    body = NAMES_BY_CHANCE.sub(b"...", body)
    try:
        text = body.decode()
    except UnicodeDecodeError:
        return f"{len(body)} bytes"
    if len(text) <= 2000:
        return text
    return f"{len(body)} bytes, sha256 {hashlib.sha256(body).hexdigest()[:16]}"


if __name__ == "__main__":
    recorded = asyncio.run(answers())
    FILE.write_text(json.dumps(recorded, indent=1, ensure_ascii=False) + "\n")
