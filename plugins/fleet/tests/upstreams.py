"""Servers to stand behind the gateway: one that is well, and some that are not."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib

from aiohttp import web
from served_port import ServedPort


class Upstream:
    """A server of the inference protocol that tells what it was sent.

    ready: versions that it says are ready, "" for the model as a whole.
    hangs: whether it does not say whether a model is ready.
    """

    def __init__(self, name):
        self.name = name
        self.ready = {"", "1", "2", "3"}
        self.hangs = False
        self.seen = []
        self.pause = asyncio.Event()
        self.pause.set()
        self.cancelled = 0
        self.served = None
        self.port = 0

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    def application(self):
        application = web.Application(client_max_size=1 << 30)
        application.router.add_route("*", "/{path:.*}", self.answer)
        return application

    async def answer(self, request):
        path = request.path
        if path == "/v2/health/live":  # a probe, too, where readiness was told too late
            return web.Response()
        if path.endswith("/ready"):
            if self.hangs:
                await asyncio.Event().wait()
            parts = path.split("/")
            version = parts[-2] if parts[-3] == "versions" else ""
            return web.Response(status=200 if version in self.ready else 400)
        self.seen.append(ReceivedRequest(request, await request.read()))
        try:
            await self.pause.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return await self.inferred(request)

    async def inferred(self, request):
        seen = self.seen[-1]
        told = {"server": self.name, "path": request.path_qs, "sha": seen.sha, "size": seen.size}
        return web.json_response(told, headers={"X-Own": "1", "Set-Cookie": "a=b"})

    async def start(self, port=0):
        runner = web.AppRunner(
            self.application(),
            access_log=None,
            auto_decompress=False,
            handler_cancellation=True,
            shutdown_timeout=0.1,
        )
        self.served = ServedPort(runner)
        await self.served.start(port)
        self.port = self.served.port

    async def stop(self):
        if self.served is not None:
            await self.served.end()
            self.served = None


class ReceivedRequest:
    """A request as it arrived."""

    def __init__(self, request, body):
        self.method = request.method
        self.path = request.path_qs
        self.headers = request.headers.copy()
        self.size = len(body)
        self.sha = hashlib.sha256(body).hexdigest()
        self.body = body if len(body) < 100_000 else b""


class RawServer:
    """A server that says it is ready, and answers anything else as ``act`` does."""

    def __init__(self, act):
        self._act = act
        self.asked = 0
        self._writers = set()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    async def __aenter__(self):
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *exc):
        self._server.close()
        for writer in self._writers:
            writer.transport.abort()

    async def _serve(self, reader, writer):
        self._writers.add(writer)
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                if b"/ready " in head:
                    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
                    continue
                for line in head.split(b"\r\n"):
                    if line.lower().startswith(b"content-length:"):
                        await reader.readexactly(int(line.split(b":")[1]))
                self.asked += 1
                if await self._act(writer) is None:
                    break
        self._writers.discard(writer)
        writer.close()
