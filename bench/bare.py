"""The loop without a server: decode, model, encode, one image after the other.

Run as ``python bench/bare.py MODEL THREADS``. Reads orders line by line as JSON, does each, and
writes what came of it, as ``generator`` does; an order's ``headers`` tell the form of the body.
"""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any

import msgspec
import pybase64
import simplejpeg

import answers
import nets
import noop
import stub
from generator import Order, Tally
from mataserver import Detection, DetectResult
from mataserver.engines.memory import keep_freed_memory
from mataserver.media import encode_png

if TYPE_CHECKING:
    from collections.abc import Callable

    from generator import Outcome

JPEG_START = b"\xff\xd8"


class Asked(msgspec.Struct):
    """The body of a JSON request."""

    image: str


def images(order: Order) -> Callable[[bytes | memoryview], Any]:
    """Return what turns a body into an image; a form is an image whose borders are known."""
    if order.headers.get("Content-Type") != "application/json":
        return pixels
    decoder = msgspec.json.Decoder(Asked)
    return lambda body: pixels(pybase64.b64decode(decoder.decode(body).image))


def pixels(data: bytes | memoryview) -> Any:
    """Decode an image."""
    return simplejpeg.decode_jpeg(data, colorspace="RGB")


def models(name: str, threads: int) -> Callable[[Any], Any]:
    """Return what turns an image into what is to be encoded."""
    if name in nets.SIDES:
        run = nets.build(name, threads)
        return lambda image: DetectResult([Detection(*each) for each in run([image])[0]])
    constant: Any = noop.answer(name)
    if name == "detector":
        return lambda image: (answers.resized(image, answers.INPUT), constant)[1]
    return lambda _image: constant


def encoders(name: str, order: Order) -> Callable[[Any], bytes]:
    """Return what encodes a result: pixels as base64 in JSON, as bytes in MessagePack."""
    packed = order.headers.get("Accept") == "application/msgpack"
    encode = msgspec.msgpack.Encoder().encode if packed else msgspec.json.Encoder().encode
    text = (lambda data: data) if packed else (lambda data: pybase64.b64encode(data).decode())
    if name == "depth":
        return lambda result: encode({"depth_map": text(result.depth_map.data)})
    if name == "masks":
        return lambda result: encode(
            [
                {"label": s.label, "confidence": s.confidence, "mask": text(encode_png(s.mask))}
                for s in result.segments
            ]
        )
    return encode


def loop(order: Order, name: str, model: Callable[[Any], Any]) -> Outcome:
    """Do what an order says. The answers are all the same, so the first alone is looked at."""
    body, decode, encode = order.contents(), images(order), encoders(name, order)
    if order.headers.get("Content-Type", "").startswith("multipart/"):
        body = body[body.index(JPEG_START) : body.rindex(b"\r\n--")]
    tally = Tally(order)
    tally.check(200, encode(model(decode(body))))
    tally.begun = time.perf_counter()
    while tally.goes_on():
        since = time.perf_counter()
        encode(model(decode(body)))
        tally.took(since)
    return tally.outcome()


def main() -> None:
    """Serve orders."""
    keep_freed_memory()
    if stub.asked():
        stub.decoder()
    name, threads = sys.argv[1], int(sys.argv[2])
    model = models(name, threads)
    print(flush=True)
    for line in sys.stdin:
        outcome = loop(msgspec.json.decode(line, type=Order), name, model)
        print(msgspec.json.encode(outcome).decode(), flush=True)


if __name__ == "__main__":
    main()
