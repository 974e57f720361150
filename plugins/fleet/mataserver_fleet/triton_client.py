"""What is asked of one Triton, through the server's rule for outbound requests.

A Triton is not trusted: its answers are bounded in time and size, and decoded against a type.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, TypeVar
from urllib.parse import quote

import msgspec
from msgspec import Meta, Struct

from mataserver import AddressRefused, BadRequest, MataError, Policy
from mataserver_fleet import triton_rpc
from mataserver_fleet.tritons import Gpu, bracketed

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from mataserver import Context


T = TypeVar("T")
MOST_BYTES = 16e6
MOST_GPUS = 64
LARGEST = triton_rpc.MOST - 2**20
"""Bytes of a model's files that a Triton is sent: of gRPC a message; by HTTP it takes no more."""
LARGE = 64_000_000
"""Bytes of a model that is sent by gRPC while no other one is: a message is in memory."""
_PIECE = 3 << 18
"""Bytes of a file that are encoded at a time: a multiple of 3, so that base64 has no seams."""
_GPU = re.compile(
    r'nv_gpu_(\w+)\{[^}]*gpu_uuid="([^"]{1,100})"[^}]*\} ([0-9.e+-]{1,40})$', re.MULTILINE
)


class TritonError(MataError):
    """502: a Triton did not do what it was asked, or cannot be understood."""

    status = 502
    answered = True
    """Whether it answered at all."""


class Unreachable(TritonError):
    """502: no answer came."""

    answered = False


_Name = Annotated[str, Meta(max_length=255)]
_Count = Annotated[int, Meta(ge=0, lt=2**62)]
_Milliseconds = Annotated[int, Meta(ge=0, lt=10**13)]


class Described(Struct):
    """``GET /v2``."""

    name: _Name
    version: _Name = ""


class _Counted(Struct):
    name: _Name
    version: _Name
    last_inference: _Milliseconds = 0
    inference_count: _Count = 0
    execution_count: _Count = 0


class _Counts(Struct):
    model_stats: Annotated[list[_Counted], Meta(max_length=10_000)] = []


class Indexed(Struct):
    """A line of a Triton's repository index: a version of a model, or one that has none."""

    name: _Name
    version: _Name = ""
    state: _Name = ""
    reason: str = ""


class _Parameter(Struct):
    string_value: str = ""


class _Config(Struct):
    parameters: dict[str, _Parameter] = {}


class _Problem(Struct):
    error: str


class ModelCount(NamedTuple):
    """What a Triton tells of a version that it serves; ``last`` in Unix seconds, 0 for never."""

    name: str
    number: int
    inferences: int
    executions: int
    last: float


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
    """Asks a Triton. ``turn`` is held while a large model is sent by gRPC, wholly in memory."""

    def __init__(self, ctx: Context, address: Address, turn: asyncio.Lock | None = None) -> None:
        self._http = ctx.http
        self.address = address
        self._turn = turn or asyncio.Lock()
        self._timeout = ctx.settings.timeout
        self._load_timeout = ctx.settings.load_timeout

    async def describe(self) -> Described:
        """Return what it is. Raises ``TritonError``, also for what is no Triton."""
        found = _decoded(await self._get("/v2"), Described)
        if found.name != "triton":
            raise TritonError(f"It is no Triton: it calls itself {found.name[:64]!r}")
        return found

    async def check_live(self) -> None:
        """Raise ``TritonError`` for a Triton that is not live.

        Its readiness is not asked: that is 400 while any model is being loaded.
        """
        await self._get("/v2/health/live")

    async def counts(self) -> list[ModelCount]:
        """Return what it serves, and how often each was asked."""
        found = _decoded(await self._get("/v2/models/stats"), _Counts)
        return [
            ModelCount(
                each.name,
                int(each.version),
                each.inference_count,
                each.execution_count,
                each.last_inference / 1e3,
            )
            for each in found.model_stats
            if each.version.isascii() and each.version.isdigit() and len(each.version) < 10
        ]

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
        found = _decoded(body, _Config).parameters.get(name)
        return "" if found is None else found.string_value

    async def index(self) -> list[Indexed]:
        """Return what is in its repository. What was pushed to it alone may not stand there."""
        told = {"Content-Type": "application/json"}
        path = "/v2/repository/index"
        status, body = await self._ask("POST", path, headers=told, body=b"{}")
        if status != 200:
            raise TritonError(f"{path} is answered {status}")
        return _decoded(body, list[Indexed])

    async def config(self, model: str) -> dict[str, Any] | None:
        """Return the configuration that a model was loaded with, None where there is none."""
        status, body = await self._ask("GET", f"/v2/models/{quote(model)}/config")
        return _decoded(body, dict[str, Any]) if status == 200 else None

    async def metadata(self, model: str) -> Any:
        """Return what it tells of a model's inputs and outputs."""
        return _decoded(await self._get(f"/v2/models/{quote(model)}"), dict[str, Any])

    async def gpus(self) -> list[Gpu]:
        """Return the figures of its GPUs; none where it has no metrics."""
        if self.address.metrics_port is None:
            return []
        body = await self._get("/metrics", self.address.metrics_port)
        figures: dict[str, dict[str, float]] = {}
        for what, gpu, value in _GPU.findall(body.decode(errors="replace")):
            figures.setdefault(gpu, {})[what] = _number(value)
        return [
            Gpu(
                gpu,
                told.get("memory_used_bytes"),
                told.get("memory_total_bytes"),
                told.get("utilization"),
            )
            for gpu, told in list(figures.items())[:MOST_GPUS]
        ]

    def turn(self, files: Mapping[str, Path]) -> AbstractAsyncContextManager[object]:
        """Return what is held while these files are sent: other large ones wait for it."""
        by_rpc = self.address.grpc_port is not None and triton_rpc.available()
        return self._turn if by_rpc and _size(files) > LARGE else contextlib.nullcontext()

    async def load(self, model: str, config: Mapping[str, Any], files: Mapping[str, Path]) -> None:
        """Have it load a model from these files alone. Raises ``TritonError`` with its reason.

        By gRPC where it has a port for that: by HTTP a third more is sent, of which a newer Triton
        takes 64 MB unless it is told otherwise.
        """
        size = _size(files)
        if size > LARGEST:
            raise TritonError(
                f"Its files are {size / 1e9:.1f} GB, and a Triton is sent {LARGEST / 1e9:.1f} GB at"
                " most: register it with the path of a repository that it shares"
            )
        if self.address.grpc_port is not None and triton_rpc.available():
            await self._load_by_rpc(self.address.grpc_port, model, config, files)
            return
        body = _Push(config, files)
        headers = {"Content-Type": "application/json", "Content-Length": str(body.size)}
        await self._control(model, "load", headers, body)

    async def load_what_lies_there(self, model: str) -> None:
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
            raise TritonError(_reason(status, answer))

    async def _get(self, path: str, port: int | None = None) -> bytes:
        status, body = await self._ask("GET", path, port)
        if status != 200:
            raise TritonError(f"{path} is answered {status}")
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
        # A load is ended by who asks for it, who then knows that it was late and not away.
        timeout = 2 * self._load_timeout if patient else self._timeout
        policy = Policy(name=self.address.name, max_bytes=MOST_BYTES, timeout=timeout)
        url = self.address.url(port) + path
        try:
            asking = self._http.outbound(method, url, policy, headers=headers, body=body)
            async with asking as response:
                return response.status, await response.read()
        except AddressRefused:
            raise
        except BadRequest as error:
            raise Unreachable(error.detail.partition(": ")[2] or error.detail) from error


class _Push:
    """The body of a load, made piece by piece: no more than a piece of a file is in memory."""

    def __init__(self, config: Mapping[str, Any], files: Mapping[str, Path]) -> None:
        told = msgspec.json.encode(msgspec.json.encode(config).decode())
        self._head = b'{"parameters":{"config":' + told
        self._files = [
            (b',"file:' + msgspec.json.encode(name)[1:-1] + b'":"', path)
            for name, path in files.items()
        ]
        self._tail = b"}}"

    @property
    def size(self) -> int:
        """How many bytes it has."""
        files = (len(key) + 4 * ((path.stat().st_size + 2) // 3) + 1 for key, path in self._files)
        return len(self._head) + sum(files) + len(self._tail)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Yield the pieces."""
        yield self._head
        for key, path in self._files:
            yield key
            with path.open("rb") as file:
                while piece := await asyncio.to_thread(file.read, _PIECE):
                    yield base64.b64encode(piece)
            yield b'"'
        yield self._tail


def _size(files: Mapping[str, Path]) -> int:
    return sum(path.stat().st_size for path in files.values())


def _decoded(body: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise TritonError("Its answer cannot be understood") from None


def _reason(status: int, body: bytes) -> str:
    try:
        return msgspec.json.decode(body, type=_Problem).error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return f"It answers {status}"


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0
