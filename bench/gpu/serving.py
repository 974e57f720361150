"""A server with local checkpoints in a process of its own, and requests to it."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import multiprocessing
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from multiprocessing.connection import Connection

START = 120.0


def jpeg() -> bytes:
    """Return a JPEG of 640x480 and some 60 KB."""
    noise = np.random.default_rng(1).normal(0, 9, (480, 640, 3))
    slope = np.linspace(0, 200, 640)[None, :, None] + np.linspace(0, 50, 480)[:, None, None]
    buffer = io.BytesIO()
    Image.fromarray(np.clip(slope + noise, 0, 255).astype(np.uint8)).save(
        buffer, "JPEG", quality=84
    )
    return buffer.getvalue()


def _serve(
    said: Connection, folder: str, models: Mapping[str, tuple[str, str]], given: Any
) -> None:
    import importlib.metadata

    from mataserver import testing
    from mataserver.plugins import GROUP

    hog = importlib.metadata.EntryPoint("hog", "hog", GROUP)

    async def serve() -> None:
        points = [*testing.installed("hf"), hog]
        async with testing.serving(Path(folder), entry_points=points, **given) as served:
            said.send((served.url, served.key))
            await asyncio.get_running_loop().run_in_executor(None, said.recv)

    _register(folder, models)
    asyncio.run(serve())


def _register(folder: str, models: Mapping[str, tuple[str, str]]) -> None:
    """Write the registry that a server finds when it starts."""
    entries = {
        name: {"task": task, "source": "pip" if path == "" else "local", "pulled_at": 0.0}
        | ({"path": path} if path else {})
        for name, (task, path) in models.items()
    }
    file = Path(folder, "model_registry.json")
    file.write_text(json.dumps({"version": 1, "models": entries}))


def path(model: str, params: Mapping[str, Any]) -> str:
    """Return where an image is posted for an answer."""
    texts = {k: json.dumps(v) if isinstance(v, list) else v for k, v in params.items()}
    return f"/v1/infer?{urlencode({'model': model, **texts})}"


class Client:
    """Asks the server; ``pid`` is its process."""

    def __init__(self, url: str, key: str, pid: int) -> None:
        self.url, self.key, self.pid = url, key, pid

    def infer(self, model: str, image: bytes, **params: Any) -> tuple[int, Any]:
        """Ask for one answer; return its status and body."""
        return self.call("POST", path(model, params), image)

    def call(self, method: str, path: str, body: bytes | None = None) -> tuple[int, Any]:
        """Send a request; return its status and decoded answer."""
        headers = {"Authorization": f"Bearer {self.key}", "Content-Type": "image/jpeg"}
        request = urllib.request.Request(self.url + path, body, headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=START) as answer:
                return answer.status, json.loads(answer.read() or b"null")
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read() or b"null")


@contextlib.contextmanager
def served(
    folder: Path, models: Mapping[str, tuple[str, str]], **settings: Any
) -> Iterator[Client]:
    """Run a server until the context ends; ``models`` gives each its task and its path."""
    ours, its = multiprocessing.get_context("spawn").Pipe()
    process = multiprocessing.get_context("spawn").Process(
        target=_serve, args=(its, str(folder), dict(models), settings)
    )
    process.start()
    try:
        its.close()  # so that its end is seen at once
        if not ours.poll(START):
            raise TimeoutError("the server did not start")
        url, key = ours.recv()
        yield Client(url, key, process.pid or 0)
    finally:
        with contextlib.suppress(OSError):
            ours.send("end")
        process.join(30)
        process.kill()
