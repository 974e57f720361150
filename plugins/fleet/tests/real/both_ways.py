"""A real Triton asked directly and by the gateway, each behind what keeps every answer's bytes.

What the clients of the two protocols make of an answer hides much of it: two ways are the same when
the bytes are.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import re
import sys
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import grpc
from aiohttp import web
from multidict import CIMultiDict
from yarl import URL

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS), str(Path(__file__).resolve().parent)]

from fleet_client import Client  # noqa: E402
from real_models import MODELS  # noqa: E402
from real_triton import RealTriton  # noqa: E402
from served_port import ServedPort  # noqa: E402

from mataserver.testing import FAKE, installed, serving  # noqa: E402

SHOWN = ("Content-Type", "Content-Encoding", "Content-Length", "Inference-Header-Content-Length")
"""Fields of an answer's header that say what its body is."""
_HOP = {"host", "connection", "content-length", "transfer-encoding", "keep-alive"}
_OWN_METADATA = ("user-agent", "grpc-", "content-type", "te")
_ENDLESS = -1


@dataclass
class Place:
    """Where a client asks, by HTTP and gRPC, and what answered it so far."""

    url: str
    grpc: int
    key: str
    answers: list

    def taken(self):
        """Return the answers since this was asked last."""
        found, self.answers[:] = list(self.answers), []
        return found


class _Rpc(grpc.GenericRpcHandler):
    """Passes calls on as bytes, and keeps what is answered."""

    def __init__(self, port, answers):
        options = [("grpc.max_receive_message_length", _ENDLESS)]
        self._channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}", options)
        self._answers = answers

    async def close(self):
        """Ask nobody any more."""
        await self._channel.close()

    def service(self, details):
        """Return what answers a call."""
        if details.method.endswith("/ModelStreamInfer"):
            return grpc.stream_stream_rpc_method_handler(self._streams(details.method))
        return grpc.unary_unary_rpc_method_handler(self._answered(details.method))

    def _answered(self, method):
        async def answer(message, context):
            try:
                made = await self._channel.unary_unary(method)(message, metadata=_told(context))
            except grpc.aio.AioRpcError as error:
                self._answers.append((method, error.code(), error.details()))
                await context.abort(error.code(), error.details())
            self._answers.append((method, bytes(made)))
            return made

        return answer

    def _streams(self, method):
        async def answer(messages, context):
            call = self._channel.stream_stream(method)(messages, metadata=_told(context))
            try:
                async for made in call:
                    self._answers.append((method, bytes(made)))
                    yield made
            except grpc.aio.AioRpcError as error:
                self._answers.append((method, error.code(), error.details()))
                await context.abort(error.code(), error.details())

        return answer


def _told(context):
    """Return the metadata that a client gave, without what its library did."""
    given = context.invocation_metadata() or ()
    return tuple((key, value) for key, value in given if not key.startswith(_OWN_METADATA))


class _Http:
    """Passes requests on as bytes, and keeps what is answered."""

    def __init__(self, http, url, answers):
        self._http, self._url, self._answers = http, url, answers

    def application(self):
        """Return what answers every request."""
        application = web.Application(client_max_size=1 << 30)
        application.router.add_route("*", "/{path:.*}", self._answer)
        return application

    async def _answer(self, request):
        fields = [(k, v) for k, v in request.headers.items() if k.lower() not in _HOP]
        asking = self._http.request(
            request.method,
            URL(f"{self._url}{request.rel_url.raw_path_qs}", encoded=True),
            data=io.BytesIO(body) if (body := await request.read()) else None,
            headers=CIMultiDict(fields),
            skip_auto_headers=("Content-Type", "User-Agent", "Accept", "Accept-Encoding"),
        )
        async with asking as answer:
            raw = await answer.read()
            told = {name: answer.headers[name] for name in SHOWN if name in answer.headers}
        self._answers.append((request.method, request.path, answer.status, told, raw))
        return web.Response(status=answer.status, body=raw, headers=told)


@contextlib.asynccontextmanager
async def kept(http, url, port, key):
    """Give a place that passes everything on to a server, and keeps its answers."""
    answers = []
    runner = web.AppRunner(
        _Http(http, url, answers).application(), access_log=None, auto_decompress=False
    )
    served, rpc = ServedPort(runner), _Rpc(port, answers)
    options = [("grpc.max_receive_message_length", _ENDLESS), ("grpc.so_reuseport", 0)]
    door = grpc.aio.server(options=options)
    door.add_generic_rpc_handlers((rpc,))
    await served.start(0)
    try:
        opened = door.add_insecure_port("127.0.0.1:0")
        await door.start()
        yield Place(f"http://127.0.0.1:{served.port}", opened, key, answers)
    finally:
        await door.stop(0)
        await rpc.close()
        await served.end()


@contextlib.asynccontextmanager
async def both_ways(folder):
    """Give a Triton with models as it is, and as an application of the gateway."""
    triton = RealTriton()
    gateway = {"grpc_port": 0, "probe": 0.2}
    fleet = {
        "probe": 0.5, "load_timeout": 120.0, "code_backends": ["python"], "gateway": gateway,
    }  # fmt: skip
    settings = {"engine": "thread", "plugins": {"fleet": fleet}, "outbound_hosts": ["127.0.0.1"]}
    points = [FAKE, *installed("database", "accounts", "fleet")]
    try:
        await triton.start()
        async with (
            serving(folder, entry_points=points, **settings) as served,
            aiohttp.ClientSession(auto_decompress=False) as http,
        ):
            client = Client(http, served)
            key = await _shop(client, triton)
            through = f"{served.url}/gateway/shop"
            await _ready(http, through, key)
            port = served.service("fleet").grpc_port
            async with (
                kept(http, triton.url, triton.grpc_port, key) as direct,
                kept(http, through, port, key) as asked,
            ):
                yield direct, asked
    finally:
        triton.close()


async def _shop(client, triton):
    """Have the Triton serve the models, and an application offer them; return a consumer's key."""
    ports = {"port": triton.port, "grpc_port": triton.grpc_port}
    await client.made("/api/tritons", {"name": "gpu", "host": "127.0.0.1", **ports})
    await client.made("/api/apps", {"name": "shop"})
    for name, files in MODELS.items():
        form = aiohttp.FormData(quote_fields=False, default_to_multipart=True)
        form.add_field("name", name)
        for path, content in files.items():
            form.add_field("files[]", content, filename=path)
        status, answer = await client.ask("POST", "/api/models", data=form)
        assert status == 201, answer
        status, done = await client.ask("POST", f"/api/models/{name}/load")
        assert (status, done["status"]) == (200, "ok"), done
        await client.made(f"/api/apps/shop/routes/{name}", {"protocols": ["http", "grpc"]})
    return (await client.made("/api/apps/shop/consumers/till"))["key"]


async def _ready(http, url, key):
    """Wait until the gateway has seen that every model is ready."""
    async with asyncio.timeout(60):
        while True:
            async with http.get(f"{url}/v2/health/ready", headers={"apikey": key}) as answer:
                if answer.status == 200:
                    return
            await asyncio.sleep(0.05)


def without_numbers(answers):
    """Return answers without their numbers and lengths: counts and times differ each time."""
    return [re.sub(rb"[0-9]+", b"0", each[-1]) for each in answers if isinstance(each[-1], bytes)]
