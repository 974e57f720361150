"""Triton's four clients behind one face: HTTP and gRPC, plain and asynchronous."""

from __future__ import annotations

import asyncio
import contextlib
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import tritonclient.grpc
import tritonclient.grpc.aio
import tritonclient.http
import tritonclient.http.aio

KINDS = {
    "http": tritonclient.http,
    "http-aio": tritonclient.http.aio,
    "grpc": tritonclient.grpc,
    "grpc-aio": tritonclient.grpc.aio,
}


GRPC = {"plugins": {"oip": {"grpc_port": 0}}}
"""Settings of a server that speaks gRPC on a free port."""


def grpc_port(served):
    """Return the port that a server, or what stands before one, listens on for gRPC."""
    if isinstance(getattr(served, "grpc", None), int):
        return served.grpc
    return served.service("oip").grpc_port


class Triton:
    """One of the clients, with the server's key. ``await call(name, ...)`` calls any method."""

    def __init__(self, kind, served):
        self.kind = kind
        self.module = KINDS[kind]
        self.headers = {"authorization": f"Bearer {served.key}"}
        place = served.url.removeprefix("http://")
        if kind.startswith("grpc"):
            place = f"127.0.0.1:{grpc_port(served)}"
        # The plain HTTP client is made of greenlets, which stay in the thread that made them.
        self._thread = ThreadPoolExecutor(1)
        self._client = self.module.InferenceServerClient(place)

    async def call(self, name, *args, **kwargs):
        """Call a method and return what it gives."""
        method = getattr(self._client, name)
        arguments = {"headers": self.headers, **kwargs}
        if self.kind.endswith("aio"):
            return await method(*args, **arguments)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, partial(method, *args, **arguments))

    async def described(self, name, *args):
        """Call a method that describes something; return it as plain JSON."""
        if not self.kind.startswith("grpc"):
            return await self.call(name, *args)
        return await self.call(name, *args, as_json=True)

    async def infer(self, model, *inputs, outputs=None, **options):
        """Infer; return the result."""
        wanted = outputs and [self.module.InferRequestedOutput(each) for each in outputs]
        return await self.call("infer", model, list(inputs), outputs=wanted, **options)

    def encoded(self, *images, name="image"):
        """Return encoded images, or other bytes, as an input."""
        return self.input(name, np.array(images, dtype=object), "BYTES")

    def pixels(self, array):
        """Return pixels as an input."""
        return self.input("image", array, "UINT8")

    def input(self, name, array, datatype):
        """Return any array as an input."""
        made = self.module.InferInput(name, array.shape, datatype)
        made.set_data_from_numpy(array)
        return made

    async def close(self):
        """Close the client."""
        if self.kind.endswith("aio"):
            await self._client.close()
        else:
            await asyncio.get_running_loop().run_in_executor(self._thread, self._client.close)
        self._thread.shutdown()


@contextlib.asynccontextmanager
async def triton(kind, served):
    """Give a client of that kind."""
    client = Triton(kind, served)
    try:
        yield client
    finally:
        await client.close()
