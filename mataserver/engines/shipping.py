"""The server's side of distributing a model's files to nodes."""

from __future__ import annotations

import asyncio
import logging
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from mataserver.engines.seat import FILES
from mataserver.engines.store import (
    MOST_SENT,
    PIECE,
    Consignment,
    Goods,
    Receipt,
    SentFile,
    contents,
    digest,
    sha256,
)
from mataserver.errors import Unavailable
from mataserver.sources.cache import repository_directory

if TYPE_CHECKING:
    from asyncio import StreamReader, StreamWriter
    from collections.abc import Iterator

    from mataserver.contract.backend import ModelSpec
    from mataserver.engines.placing import Placed
    from mataserver.engines.work import Assignment

_TRUE = {"1", "on", "yes", "true"}

log = logging.getLogger("mataserver.ray")


class Shipping:
    """Computes the manifests of models' files, cached until a file changes."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[object, Goods]] = {}

    async def goods(self, assignment: Assignment) -> list[Goods]:
        """Return the manifests of a model and its parts, in the order ``relocated`` expects.

        Raises ``Unavailable`` if the files are missing.
        """
        return [await asyncio.to_thread(self._look, spec) for spec in _specs(assignment)]

    def _look(self, spec: ModelSpec) -> Goods:
        path = Path(str(spec.path))
        state = [(str(each), (s := each.stat()).st_size, s.st_mtime_ns) for each in contents(path)]
        known = self._known.get(str(path))
        if known is None or known[0] != state:
            known = self._known[str(path)] = (state, _goods(path, spec))
        if not known[1].digest:
            raise Unavailable(f"The files of {spec.name} are not here")
        return known[1]


def _goods(path: Path, spec: ModelSpec) -> Goods:
    """Return the manifest of a model's files.

    It names a commit only for files in the hub's cache: files elsewhere, such as a converted
    model's, are not the hub's. It names none either where the server itself may not use the hub.
    """
    found = Goods(str(path), digest(str(path)))
    offline = os.environ.get("HF_HUB_OFFLINE", "").lower() in _TRUE
    if offline or spec.source != "hf":
        return found
    if path.parent != repository_directory(spec.name) / "snapshots":
        return found
    names = [str(file.relative_to(path)) for file in contents(path)]
    return msgspec.structs.replace(found, repository=spec.name, commit=path.name, names=names)


def relocated(assignment: Assignment, paths: Iterator[str]) -> Assignment:
    """Return an assignment whose model and parts are read from ``paths``, in order."""
    spec = assignment.spec
    if spec.path is not None:
        spec = replace(spec, path=Path(next(paths)))
    parts = {label: relocated(part, paths) for label, part in assignment.parts.items()}
    return replace(assignment, spec=spec, parts=parts)


def _specs(assignment: Assignment) -> Iterator[ModelSpec]:
    """Yield the specs of the model and its parts that have files."""
    if assignment.spec.path is not None:
        yield assignment.spec
    for part in assignment.parts.values():
        yield from _specs(part)


async def deliver(model: str, goods: list[Goods], placed: Placed, secret: bytes) -> list[str]:
    """Send a node the files it lacks; return the path of each manifest's files there.

    Raises ``Unavailable``, also for files too large to be sent.
    """
    found = []
    for given, path in zip(goods, placed.found, strict=True):
        found.append(path or await _send(model, given, placed, secret))
    return found


async def _send(model: str, given: Goods, placed: Placed, secret: bytes) -> str:
    announced = await asyncio.to_thread(_announced, model, given)
    writer, receipt = None, Receipt(error="it went away")
    try:
        reader, writer = await asyncio.open_connection(placed.host, placed.port)
        writer.write(secret + FILES + msgspec.json.encode(announced) + b"\n")
        receipt = await _receipt(reader)
        if receipt.send:
            log.info("%s is sent to the node %s", model, placed.node.name)
            receipt = await _pour(Path(given.path).parent, announced, reader, writer)
    except OSError as error:
        log.warning("%s", error)
    finally:
        if writer is not None:
            writer.close()
    if not receipt.path:
        where = placed.node.name
        log.error("the node %s did not accept the files of %s: %s", where, model, receipt.error)
        said = f"The files of {model} could not be sent to the node {where}"
        raise Unavailable(said, retry_after=5)
    return receipt.path


def _announced(model: str, given: Goods) -> Consignment:
    """Return the header that precedes the files. Blocking; raises ``Unavailable``."""
    root = Path(given.path)
    files = contents(root)
    if sum(file.stat().st_size for file in files) > MOST_SENT:
        raise Unavailable(
            f"The files of {model} are not on the node and too large to be sent there: they must "
            "lie at the same path on every node"
        )
    sent = [
        SentFile(str(file.relative_to(root.parent)), file.stat().st_size, sha256(file))
        for file in files
    ]
    return Consignment(given.digest, root.name, sent)


async def _pour(
    folder: Path, announced: Consignment, reader: StreamReader, writer: StreamWriter
) -> Receipt:
    """Send the files; return the node's receipt, as soon as it arrives."""
    answer = asyncio.ensure_future(_receipt(reader))
    pouring = asyncio.ensure_future(_write(folder, announced, writer))
    try:
        await asyncio.wait([answer, pouring], return_when=asyncio.FIRST_COMPLETED)
        return await answer
    finally:
        pouring.cancel()
        answer.cancel()
        await asyncio.gather(pouring, answer, return_exceptions=True)


async def _write(folder: Path, announced: Consignment, writer: StreamWriter) -> None:
    for sent in announced.files:
        with await asyncio.to_thread((folder / sent.name).open, "rb") as file:
            while piece := await asyncio.to_thread(file.read, PIECE):
                writer.write(piece)
                await writer.drain()


async def _receipt(reader: StreamReader) -> Receipt:
    line = await reader.readline()
    try:
        return msgspec.json.decode(line, type=Receipt)
    except msgspec.MsgspecError:
        return Receipt(error="it went away")
