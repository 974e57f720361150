"""The WebSockets and the calls of gRPC whose answers are recorded."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import grpc
import msgspec
from aiohttp import WSMsgType
from tritonclient.grpc import service_pb2

from mataserver_oip.rpc.server import SERVICE
from recorded_requests import B64, PNG
from recorded_sam import SOCKET

if TYPE_CHECKING:
    import aiohttp

KEY = {"Authorization": "Bearer test-key"}
PACKED = ("mata.v1.msgpack",)
PATIENCE = 20.0


@dataclass(frozen=True)
class Stream:
    """A socket: what is asked for as a session, and the messages that are sent.

    Each is sent when the one before was answered. ``until_closed`` reads on until the server
    closes; of a ``pair`` another socket of the session is open already.
    """

    session: dict[str, Any] | None
    messages: tuple[bytes | str, ...] = ()
    path: str = "/v1/stream/{session}"
    headers: dict[str, str] = field(default_factory=lambda: KEY)
    protocols: tuple[str, ...] = ()
    until_closed: bool = False
    pair: bool = False


def _of(model: str, **more: Any) -> dict[str, Any]:
    return {"model": model, **more}


DETECT, TRACK = _of("fake-detect"), _of("fake-track")
RAISING = _of("fake-detect", params={"behave": "raise"})
STREAMS = {
    "frames": Stream(DETECT, (PNG, PNG)),
    "tracked": Stream(TRACK, (PNG, PNG, PNG)),
    "a broken frame": Stream(DETECT, (b"no picture", PNG)),
    "a ping": Stream(DETECT, ('{"type":"ping"}', PNG)),
    "another text": Stream(DETECT, ("hello", PNG)),
    "packed": Stream(DETECT, (PNG, b"no picture", '{"type":"ping"}'), protocols=PACKED),
    "packed masks": Stream(_of("fake-segment"), (PNG,), protocols=PACKED),
    "the JSON protocol": Stream(DETECT, (PNG,), protocols=("mata.v1.json",)),
    "another protocol": Stream(DETECT, (PNG,), protocols=("other",)),
    "pieces of text": Stream(_of("echo", stream=True, params={"prompt": "a b c"}), (PNG, PNG)),
    "a text whole": Stream(_of("echo", params={"prompt": "a b c"}), (PNG,)),
    "another type": Stream(DETECT, ('{"type":"smell"}', '{"kind":1}', PNG)),
    "the model raises": Stream(RAISING, (PNG,), until_closed=True),
    "no session": Stream(None, path="/v1/stream/sess_0", until_closed=True),
    "no key": Stream(DETECT, headers={}, until_closed=True),
    "a wrong key": Stream(DETECT, headers={"X-API-Key": "wrong"}, until_closed=True),
    "the key in the query": Stream(
        DETECT, (PNG,), "/v1/stream/{session}?token=test-key", headers={}
    ),
    "a wrong key in the query": Stream(
        DETECT, (), "/v1/stream/{session}?token=wrong", headers={}, until_closed=True
    ),
    "a second connection": Stream(DETECT, pair=True, until_closed=True),
    "SAM, no session": Stream(None, ("{}",), SOCKET, until_closed=True),
    "SAM, no JSON": Stream(None, ("hello",), SOCKET, until_closed=True),
}


async def streamed(http: aiohttp.ClientSession, stream: Stream) -> list[str]:
    """Return what a socket answered, in order; its session is deleted."""
    if stream.session is None:
        return await _connected(http, stream, stream.path)
    async with http.post("/v1/sessions", json=stream.session, headers=KEY) as response:
        session = (await response.json())["session_id"]
    path = stream.path.format(session=session)
    try:
        if not stream.pair:
            return await _connected(http, stream, path)
        async with http.ws_connect(path, headers=KEY):
            return await _connected(http, stream, path)
    finally:
        async with http.delete(f"/v1/sessions/{session}", headers=KEY):
            pass


async def _connected(http: aiohttp.ClientSession, stream: Stream, path: str) -> list[str]:
    found = []
    async with http.ws_connect(path, headers=stream.headers, protocols=stream.protocols) as socket:
        if stream.protocols:
            found.append(f"protocol {socket.protocol}")
        for message in stream.messages:
            if isinstance(message, bytes):
                await socket.send_bytes(message)
            else:
                await socket.send_str(message)
            found += await _answered(socket)
        while stream.until_closed and not socket.closed:
            found.append(_text(await socket.receive(PATIENCE)))
    return found


async def _answered(socket: aiohttp.ClientWebSocketResponse) -> list[str]:
    """Return the pieces of text of an answer, and the answer."""
    found = []
    while not found or '"type":"token"' in found[-1]:
        found.append(_text(await socket.receive(PATIENCE)))
    return found


def _text(message: aiohttp.WSMessage) -> str:
    if message.type is WSMsgType.TEXT:
        return str(message.data)
    if message.type is WSMsgType.BINARY:
        return "packed " + repr(msgspec.msgpack.decode(message.data))
    return f"{message.type.name} {message.data} {message.extra or ''}".strip()


@dataclass(frozen=True)
class Call:
    """A call of gRPC: the method, and its message or the bytes in place of one."""

    method: str
    message: Any
    key: str | None = "test-key"


def _infer(model: str, datatype: str = "BYTES", output: str = "", **parameters: float) -> Any:
    message = service_pb2.ModelInferRequest(model_name=model)
    image = message.inputs.add(name="image", datatype=datatype, shape=[1])
    image.contents.bytes_contents.append(B64.encode())
    for name, value in parameters.items():
        message.parameters[name].double_param = value
    if output:
        message.outputs.add(name=output)
    return message


def _named(kind: str, model: str) -> Any:
    field_name = "model_name" if kind.startswith("Repository") else "name"
    return getattr(service_pb2, f"{kind}Request")(**{field_name: model})


def _calls() -> dict[str, Call]:
    plain = ("ServerLive", "ServerReady", "ServerMetadata", "RepositoryIndex")
    found = {}
    for kind in plain:
        message = getattr(service_pb2, f"{kind}Request")()
        found |= {kind: Call(kind, message), f"{kind} without a key": Call(kind, message, None)}
    for kind in ("ModelReady", "ModelMetadata", "RepositoryModelLoad", "RepositoryModelUnload"):
        for model in ("fake-detect", "absent"):
            found[f"{kind} {model}"] = Call(kind, _named(kind, model))
    for model in ("fake-detect", "fake-ocr", "fake-vlm", "fake-classify", "absent"):
        found[f"ModelInfer {model}"] = Call("ModelInfer", _infer(model))
    detect = "fake-detect"
    return found | {
        "ModelInfer, wrong key": Call("ModelInfer", _infer(detect), "wrong-key"),
        "ModelInfer, no key": Call("ModelInfer", _infer(detect), None),
        "ModelInfer, wrong datatype": Call("ModelInfer", _infer(detect, "FP7")),
        "ModelInfer, output": Call("ModelInfer", _infer(detect, output="boxes")),
        "ModelInfer, unknown output": Call("ModelInfer", _infer(detect, output="smell")),
        "ModelInfer, parameter": Call("ModelInfer", _infer(detect, confidence=0.2)),
        "ModelInfer, unknown parameter": Call("ModelInfer", _infer(detect, colour=1.0)),
        "ModelInfer, out of range": Call("ModelInfer", _infer(detect, confidence=2.0)),
        "ModelInfer, no message": Call("ModelInfer", b"\xff\xff"),
        "an unknown method": Call("ModelStatistics", service_pb2.ModelStatisticsRequest()),
    }


CALLS = _calls()


async def called(channel: Any, call: Call) -> str:
    """Return what a call answered: its message as text, or its status and sentence."""
    method = channel.unary_unary(
        f"/{SERVICE}/{call.method}",
        request_serializer=lambda each: (
            each if isinstance(each, bytes) else each.SerializeToString()
        ),
        response_deserializer=getattr(service_pb2, f"{call.method}Response").FromString,
    )
    shown = () if call.key is None else (("authorization", f"Bearer {call.key}"),)
    try:
        return str(await method(call.message, metadata=shown, timeout=PATIENCE))
    except grpc.aio.AioRpcError as error:
        return f"{error.code().name}: {error.details()}"
