"""What any server on aiohttp pays: a bare handler on uvloop, and the work in two threads.

No checks, no limits, no queue, no isolation. Run as ``python bench/floor.py PORT``.
"""

from __future__ import annotations

import asyncio
import sys
from concurrent.futures import ThreadPoolExecutor

import msgspec
import simplejpeg
import uvloop
from aiohttp import WSMsgType, web

import noop
import stub
from mataserver.engines.memory import keep_freed_memory

POOL = ThreadPoolExecutor(2)
JSON = msgspec.json.Encoder()


def work(image: bytes) -> bytes:
    """Decode, and encode the constant answer."""
    simplejpeg.decode_jpeg(image, colorspace="RGB")
    return JSON.encode(noop.ANSWER)


async def health(_request: web.Request) -> web.Response:
    """Tell that it runs."""
    return web.Response(body=b"ok")


async def raw(request: web.Request) -> web.Response:
    """Take the image as the body."""
    loop, image = asyncio.get_running_loop(), await request.read()
    answer = await loop.run_in_executor(POOL, work, image)
    return web.Response(body=answer, content_type="application/json")


async def frames(request: web.Request) -> web.WebSocketResponse:
    """Answer frame by frame."""
    loop, socket = asyncio.get_running_loop(), web.WebSocketResponse(compress=False)
    await socket.prepare(request)
    async for message in socket:
        answer = await loop.run_in_executor(POOL, work, message.data)
        await socket.send_frame(answer, WSMsgType.TEXT)
    return socket


def main() -> None:
    """Serve."""
    keep_freed_memory()
    if stub.asked():
        stub.decoder()
    uvloop.install()
    app = web.Application(client_max_size=1 << 26)
    app.router.add_get("/health", health)
    app.router.add_post("/raw", raw)
    app.router.add_get("/frames", frames)
    web.run_app(app, host="127.0.0.1", port=int(sys.argv[1]), access_log=None, print=None)


if __name__ == "__main__":
    main()
