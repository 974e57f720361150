"""The loop without a server for the networks of ``shapes``, by the code of the plugin ``onnx``.

Run as ``python bench/networks_loop.py NAME DIRECTORY RUNTIME THREADS``. What a picture needs, one
after the other: decode, prepare, compute, read and encode, each by the same code and with the same
answer as the server; what is left out is the server. Reads orders as ``bare`` does.
"""

from __future__ import annotations

import logging
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

import shapes
from generator import Order, Tally
from mataserver import LoadContext, ModelSpec
from mataserver.contract.envelope import Envelope
from mataserver.engines import scaling
from mataserver.engines.encoding import encode_body
from mataserver.engines.memory import keep_freed_memory
from mataserver.media import reduced

if TYPE_CHECKING:
    from collections.abc import Callable

    from generator import Outcome

MAX_PIXELS = 178_956_970


def opened(name: str, directory: str, runtime: str, threads: int) -> Callable[[bytes], bytes]:
    """Load a network; return what turns a body into the body of its answer."""
    import mataserver_onnx

    task = shapes.SHAPES[name].task
    [backend] = [each for each in mataserver_onnx.backends() if each.name == f"onnx-{task}"]
    settings: Any = mataserver_onnx.settings()
    log = logging.getLogger("bench")
    context = LoadContext(settings(runtime=runtime), "cpu", "auto", threads, shapes.PLACE, log)
    model: Any = backend.load(ModelSpec(name, task, "local", Path(directory)), context)
    envelope, params = Envelope(task, name), backend.params()
    size = scaling.input_size(model, task)

    def answer(body: bytes) -> bytes:
        picture = reduced(body, MAX_PIXELS, size)
        [result] = model.predict([picture.image], [params])
        if picture.scale > 1:
            result = scaling.restore(result, picture)
        encoded = encode_body(result, "json", envelope)
        return encoded if isinstance(encoded, bytes) else b"".join(encoded)

    return answer


def loop(order: Order, answer: Callable[[bytes], bytes]) -> Outcome:
    """Do what an order says."""
    body, tally = order.contents(), Tally(order)
    while tally.goes_on():
        since = time.perf_counter()
        tally.answered(200, answer(body), since)
    return tally.outcome()


def main() -> None:
    """Serve orders."""
    keep_freed_memory()
    name, directory, runtime, threads = sys.argv[1:]
    answer = opened(name, directory, runtime, int(threads))
    print(flush=True)
    for line in sys.stdin:
        outcome = loop(msgspec.json.decode(line, type=Order), answer)
        print(msgspec.json.encode(outcome).decode(), flush=True)


if __name__ == "__main__":
    main()
