"""Requests to one Triton, through the server's rule for outbound requests.

A Triton is not trusted: its answers are bounded in time and size, and decoded against a type.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote

from mataserver import AddressRefused, BadRequest, Policy
from mataserver_fleet import triton_rpc
from mataserver_fleet.triton_answers import (
    Config,
    IndexEntry,
    StatsResponse,
    TritonDescription,
    TritonError,
    Unreachable,
    decode,
    gpus_of,
    reason_of,
)
from mataserver_fleet.triton_push import Push, size_of
from mataserver_fleet.tritons import bracketed

if TYPE_CHECKING:
    from collections.abc import Mapping
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from mataserver import Context
    from mataserver_fleet.triton_answers import ModelCount
    from mataserver_fleet.tritons import Gpu


T = TypeVar("T")
MAX_RESPONSE_BYTES = 16e6
MAX_MODEL_BYTES = triton_rpc.MAX_MESSAGE_BYTES - 2**20
"""Bytes of a model's files that a Triton is sent: of gRPC a message; by HTTP it takes no more."""
LARGE_MODEL_BYTES = 64_000_000
"""Bytes of a model that is sent by gRPC while no other one is: a message is in memory."""


@dataclass(frozen=True)
class Address:
    """Where a Triton is. ``path`` is its model repository as this server sees it, if it does."""

    name: str
    host: str
    port: int
    metrics_port: int | None = None
    grpc_port: int | None = None
    path: str | None = None

    def url(self, port: int | None = None) -> str:
        """Return its base URL."""
        return f"http://{bracketed(self.host)}:{port or self.port}"


class TritonClient:
    """Client of one Triton.

    upload_lock: held while a large model is sent by gRPC, since its message is wholly in memory.
    """

    def __init__(
        self, ctx: Context, address: Address, upload_lock: asyncio.Lock | None = None
    ) -> None:
        self._http = ctx.http
        self.address = address
        self._upload_lock = upload_lock or asyncio.Lock()
        self._timeout = ctx.settings.timeout
        self._load_timeout = ctx.settings.load_timeout

    async def describe(self) -> TritonDescription:
        """Return what it is. Raises ``TritonError``, also for what is no Triton."""
        found = decode(await self._get("/v2"), TritonDescription)
        if found.name != "triton":
            raise TritonError(f"It is not a Triton: it calls itself {found.name[:64]!r}")
        return found

    async def check_live(self) -> None:
        """Raise ``TritonError`` for a Triton that is not live.

        Its readiness is not asked: that is 400 while any model is being loaded.
        """
        await self._get("/v2/health/live")

    async def counts(self) -> list[ModelCount]:
        """Return what it serves, and how often each was asked."""
        found = decode(await self._get("/v2/models/stats"), StatsResponse)
        return found.counts()

    async def is_ready(self, model: str, version: int) -> bool:
        """Whether it serves a version of a model."""
        path = f"/v2/models/{quote(model)}/versions/{version}/ready"
        status, _ = await self._ask("GET", path)
        return status == 200

    async def parameter(self, model: str, name: str) -> str:
        """Return a parameter of the configuration that a model was loaded with, or nothing."""
        status, body = await self._ask("GET", f"/v2/models/{quote(model)}/config")
        if status != 200:
            return ""
        found = decode(body, Config).parameters.get(name)
        return "" if found is None else found.string_value

    async def index(self) -> list[IndexEntry]:
        """Return what is in its repository. What was pushed to it alone may not stand there."""
        content_type = {"Content-Type": "application/json"}
        path = "/v2/repository/index"
        status, body = await self._ask("POST", path, headers=content_type, body=b"{}")
        if status != 200:
            raise TritonError(f"{path} answers {status}")
        return decode(body, list[IndexEntry])

    async def config(self, model: str) -> bytes | None:
        """Return the JSON of a model's configuration as it was loaded, None where there is none."""
        status, body = await self._ask("GET", f"/v2/models/{quote(model)}/config")
        return body if status == 200 else None

    async def metadata(self, model: str) -> Any:
        """Return its metadata of a model's inputs and outputs."""
        return decode(await self._get(f"/v2/models/{quote(model)}"), dict[str, Any])

    async def gpus(self) -> list[Gpu]:
        """Return the figures of its GPUs; none where it has no metrics."""
        if self.address.metrics_port is None:
            return []
        body = await self._get("/metrics", self.address.metrics_port)
        return await asyncio.to_thread(gpus_of, body)  # it may have many megabytes

    def upload_turn(self, files: Mapping[str, Path]) -> AbstractAsyncContextManager[object]:
        """Return what is held while these files are sent: other large ones wait for it."""
        by_rpc = self.address.grpc_port is not None and triton_rpc.available()
        return (
            self._upload_lock
            if by_rpc and size_of(files) > LARGE_MODEL_BYTES
            else contextlib.nullcontext()
        )

    async def load(self, model: str, config: Mapping[str, Any], files: Mapping[str, Path]) -> None:
        """Have it load a model from these files alone. Raises ``TritonError`` with its reason.

        By gRPC where it has a port for that: by HTTP a third more is sent, of which a newer Triton
        takes 64 MB unless configured otherwise.
        """
        size = size_of(files)
        if size > MAX_MODEL_BYTES:
            raise TritonError(
                f"Its files are {size / 1e9:.1f} GB, and a Triton can be sent"
                f" {MAX_MODEL_BYTES / 1e9:.1f} GB at most: register it with the path"
                " of a repository that it shares"
            )
        if self.address.grpc_port is not None and triton_rpc.available():
            await self._load_by_rpc(self.address.grpc_port, model, config, files)
            return
        with contextlib.closing(Push(config, files)) as body:
            headers = {"Content-Type": "application/json", "Content-Length": str(body.size)}
            await self._control(model, "load", headers, body)

    async def load_from_repository(self, model: str) -> None:
        """Have it load a model from its repository. Raises ``TritonError`` with its reason."""
        await self._control(model, "load", {"Content-Type": "application/json"}, b"{}")

    async def _load_by_rpc(
        self, port: int, model: str, config: Mapping[str, Any], files: Mapping[str, Path]
    ) -> None:
        policy = Policy(name=self.address.name, timeout=self._timeout)
        try:
            addresses = await self._http.check_outbound(self.address.url(port), policy)
        except AddressRefused:
            raise
        except BadRequest as error:
            raise Unreachable(error.detail) from error
        authority = f"{bracketed(self.address.host)}:{port}"
        target, options = triton_rpc.place(addresses, port, authority)
        try:
            refused = await triton_rpc.load(target, options, model, config, files)
        except ConnectionError as error:
            raise Unreachable(f"gRPC: {error}") from None
        if refused is not None:
            raise TritonError(refused)

    async def unload(self, model: str) -> None:
        """Have it begin to unload a model."""
        await self._control(model, "unload", {"Content-Type": "application/json"}, b"{}")

    async def _control(self, model: str, verb: str, headers: Mapping[str, str], body: Any) -> None:
        path = f"/v2/repository/models/{quote(model)}/{verb}"
        status, answer = await self._ask("POST", path, headers=headers, body=body, patient=True)
        if status != 200:
            raise TritonError(reason_of(status, answer))

    async def _get(self, path: str, port: int | None = None) -> bytes:
        status, body = await self._ask("GET", path, port)
        if status != 200:
            raise TritonError(f"{path} answers {status}")
        return body

    async def _ask(
        self,
        method: str,
        path: str,
        port: int | None = None,
        *,
        headers: Mapping[str, str] | None = None,
        body: Any = None,
        patient: bool = False,
    ) -> tuple[int, bytes]:
        # The caller ends a load, so that it knows a late Triton from an unreachable one.
        timeout = 2 * self._load_timeout if patient else self._timeout
        policy = Policy(name=self.address.name, max_bytes=MAX_RESPONSE_BYTES, timeout=timeout)
        url = self.address.url(port) + path
        try:
            asking = self._http.outbound(method, url, policy, headers=headers, body=body)
            async with asking as response:
                return response.status, await response.read()
        except AddressRefused:
            raise
        except BadRequest as error:
            raise Unreachable(error.detail.partition(": ")[2] or error.detail) from error
