"""The peer FastAPI: the same models behind uvicorn. It runs in an environment of its own.

Run by ``uvicorn peer_fastapi:app``. ``BENCH_NET`` names a network of ``nets``, else the models do
nothing; ``BENCH_PARALLEL`` forward passes run at a time, ``BENCH_THREADS`` threads each.
"""

# No deferred annotations here: FastAPI reads them.
import base64
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.to_thread
import msgpack
import simplejpeg
from fastapi import FastAPI, Request, Response, UploadFile, WebSocket, WebSocketDisconnect
from fastapi.concurrency import run_in_threadpool
from pydantic import BaseModel, Field

import answers
import nets
import stub


class Detection(BaseModel):
    """One object; ``mask`` is a PNG, in base64 where the answer is JSON."""

    label: str
    confidence: float
    bbox: tuple[float, float, float, float]
    mask: str | bytes | None = None


NOW = Field(default_factory=time.time)
"""The time of an answer, as ours has it: the load keeps equal strings once, and so answers that are
all alike would cost it no memory.
"""


class Detections(BaseModel):
    """An answer of objects."""

    task: str = "detect"
    timestamp: float = NOW
    detections: list[Detection]


class Depth(BaseModel):
    """A depth map of float32, in base64 where the answer is JSON."""

    task: str = "depth"
    timestamp: float = NOW
    depth_map: str | bytes
    depth_shape: tuple[int, int]


class Question(BaseModel):
    """An image in base64."""

    image: str


Answer = Detections | Depth
Encode = Callable[[Any], str | bytes]
Model = Callable[[Any, Encode], Answer]
NET = os.environ.get("BENCH_NET", "")


def _objects(found: list[answers.Found]) -> list[Detection]:
    return [Detection(label=label, confidence=sure, bbox=box) for label, sure, box in found]


def _text(data: Any) -> str:
    return base64.b64encode(data).decode()


def _detections(name: str) -> Model:
    constant = _objects(answers.detections(answers.COUNTS[name]))
    return lambda _image, _encode: Detections(detections=constant)


def _detector(image: Any, encode: Encode) -> Answer:
    answers.resized(image, answers.INPUT)
    return MODELS["noop"](image, encode)


def _masks(_image: Any, encode: Encode) -> Answer:
    found = _objects(answers.detections(answers.MASKS))
    for each, mask in zip(found, answers.masks(), strict=True):
        each.mask = encode(answers.png(mask))
    return Detections(task="segment", detections=found)


def _depth(_image: Any, encode: Encode) -> Answer:
    shape = (answers.HEIGHT, answers.WIDTH)
    return Depth(depth_map=encode(answers.depth_map()), depth_shape=shape)


MODELS: dict[str, Model] = {
    "noop": _detections("noop"),
    "many": _detections("many"),
    "detector": _detector,
    "masks": _masks,
    "depth": _depth,
}


@asynccontextmanager
async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
    """Load the network; let no more images into the thread pool than are to run at a time."""
    if NET:
        run = nets.build(NET, int(os.environ["BENCH_THREADS"]))
        MODELS[NET] = lambda image, _encode: Detections(detections=_objects(run([image])[0]))
    parallel = os.environ.get("BENCH_PARALLEL")
    if parallel:
        anyio.to_thread.current_default_thread_limiter().total_tokens = int(parallel)
    yield


if stub.asked():
    stub.decoder()
app = FastAPI(lifespan=lifespan)


def work(model: str, image: bytes, encode: Encode = _text) -> Answer:
    """Decode and infer."""
    return MODELS[model](simplejpeg.decode_jpeg(image, colorspace="RGB"), encode)


def packed(model: str, image: bytes) -> bytes:
    """Decode, infer and encode as MessagePack, pixels as bytes."""
    answer = work(model, image, bytes).model_dump(exclude_none=True)
    return bytes(msgpack.packb(answer))


@app.get("/health")
async def health() -> dict[str, str]:
    """Tell that it runs."""
    return {"status": "ok"}


@app.post("/{model}", response_model_exclude_none=True)
async def raw(model: str, request: Request) -> Answer:
    """Take the image as the body."""
    return await run_in_threadpool(work, model, await request.body())


@app.post("/{model}/packed")
async def msgpacked(model: str, request: Request) -> Response:
    """Take the image as the body, answer in MessagePack."""
    body = await run_in_threadpool(packed, model, await request.body())
    return Response(body, media_type="application/msgpack")


@app.post("/{model}/json", response_model_exclude_none=True)
async def in_json(model: str, question: Question) -> Answer:
    """Take the image in base64."""
    return await run_in_threadpool(work, model, base64.b64decode(question.image))


@app.post("/{model}/form", response_model_exclude_none=True)
async def upload(model: str, file: UploadFile) -> Answer:
    """Take the image as a file of a form."""
    return await run_in_threadpool(work, model, await file.read())


@app.websocket("/{model}/frames")
async def frames(model: str, socket: WebSocket) -> None:
    """Answer frame by frame."""
    await socket.accept()
    try:
        while True:
            image = await socket.receive_bytes()
            answer = await run_in_threadpool(work, model, image)
            await socket.send_text(answer.model_dump_json(exclude_none=True))
    except WebSocketDisconnect:
        return
