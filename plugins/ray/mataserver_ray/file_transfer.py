"""The server's side of distributing a model's files to nodes."""

from __future__ import annotations

import asyncio
import logging
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from mataserver import Unavailable, repository_directory
from mataserver_ray.file_store import (
    CHUNK_BYTES,
    MAX_TRANSFER_BYTES,
    FileManifest,
    SentFile,
    TransferHeader,
    TransferReply,
    hash_file,
    list_files,
    tree_digest,
)
from mataserver_ray.node_runner import FILES

if TYPE_CHECKING:
    from asyncio import StreamReader, StreamWriter
    from collections.abc import Iterator

    from mataserver import Assignment, ModelSpec
    from mataserver_ray.broker_messages import RunnerPlaced

_TRUE_VALUES = {"1", "on", "yes", "true"}

log = logging.getLogger("mataserver.ray")


class ManifestCache:
    """Computes the manifests of models' files, cached until a file changes."""

    def __init__(self) -> None:
        self._cache: dict[str, tuple[object, FileManifest]] = {}

    async def manifests(self, assignment: Assignment) -> list[FileManifest]:
        """Return the manifests of a model and its parts, in the order ``relocate`` expects.

        Raises ``Unavailable`` if the files are missing.
        """
        return [
            await asyncio.to_thread(self._manifest, spec) for spec in _specs_with_files(assignment)
        ]

    def _manifest(self, spec: ModelSpec) -> FileManifest:
        path = Path(str(spec.path))
        state = [
            (str(each), (s := each.stat()).st_size, s.st_mtime_ns) for each in list_files(path)
        ]
        cached = self._cache.get(str(path))
        if cached is None or cached[0] != state:
            cached = self._cache[str(path)] = (state, _build_manifest(path, spec))
        if not cached[1].digest:
            raise Unavailable(f"The files of {spec.name} are not here")
        return cached[1]


def _build_manifest(path: Path, spec: ModelSpec) -> FileManifest:
    """Return the manifest of a model's files.

    It names a commit only for files in the hub's cache: files elsewhere, such as a converted
    model's, are not the hub's. It names none either where the server itself may not use the hub.
    """
    found = FileManifest(str(path), tree_digest(str(path)))
    offline = os.environ.get("HF_HUB_OFFLINE", "").lower() in _TRUE_VALUES
    if offline or spec.source != "hf":
        return found
    if path.parent != repository_directory(spec.name) / "snapshots":
        return found
    names = [str(file.relative_to(path)) for file in list_files(path)]
    return msgspec.structs.replace(found, repository=spec.name, commit=path.name, names=names)


def relocate(assignment: Assignment, paths: Iterator[str]) -> Assignment:
    """Return an assignment whose model and parts are read from ``paths``, in order."""
    spec = assignment.spec
    if spec.path is not None:
        spec = replace(spec, path=Path(next(paths)))
    parts = {label: relocate(part, paths) for label, part in assignment.parts.items()}
    return replace(assignment, spec=spec, parts=parts)


def _specs_with_files(assignment: Assignment) -> Iterator[ModelSpec]:
    """Yield the specs of the model and its parts that have files."""
    if assignment.spec.path is not None:
        yield assignment.spec
    for part in assignment.parts.values():
        yield from _specs_with_files(part)


async def send_missing_files(
    model: str, manifests: list[FileManifest], placed: RunnerPlaced, secret: bytes
) -> list[str]:
    """Send a node the files it lacks; return the path of each manifest's files there.

    Raises ``Unavailable``, also for files too large to be sent.
    """
    found = []
    for manifest, path in zip(manifests, placed.found, strict=True):
        found.append(path or await _send_model(model, manifest, placed, secret))
    return found


async def _send_model(
    model: str, manifest: FileManifest, placed: RunnerPlaced, secret: bytes
) -> str:
    header = await asyncio.to_thread(_transfer_header, model, manifest)
    writer, reply = None, TransferReply(error="it disconnected")
    try:
        reader, writer = await asyncio.open_connection(placed.host, placed.port)
        writer.write(secret + FILES + msgspec.json.encode(header) + b"\n")
        reply = await _read_reply(reader)
        if reply.send:
            log.info("%s is sent to the node %s", model, placed.node.name)
            reply = await _send_files(Path(manifest.path).parent, header, reader, writer)
    except OSError as error:
        log.warning("%s", error)
    finally:
        if writer is not None:
            writer.close()
    if not reply.path:
        where = placed.node.name
        log.error("the node %s did not accept the files of %s: %s", where, model, reply.error)
        detail = f"The files of {model} could not be sent to the node {where}"
        raise Unavailable(detail, retry_after=5)
    return reply.path


def _transfer_header(model: str, manifest: FileManifest) -> TransferHeader:
    """Return the header that precedes the files. Blocking; raises ``Unavailable``."""
    root = Path(manifest.path)
    files = list_files(root)
    if sum(file.stat().st_size for file in files) > MAX_TRANSFER_BYTES:
        raise Unavailable(
            f"The files of {model} are not on the node and too large to be sent there: they must "
            "lie at the same path on every node"
        )
    sent = [
        SentFile(str(file.relative_to(root.parent)), file.stat().st_size, hash_file(file))
        for file in files
    ]
    return TransferHeader(manifest.digest, root.name, sent)


async def _send_files(
    folder: Path, header: TransferHeader, reader: StreamReader, writer: StreamWriter
) -> TransferReply:
    """Send the files; return the node's receipt, as soon as it arrives."""
    answer = asyncio.ensure_future(_read_reply(reader))
    pouring = asyncio.ensure_future(_write_files(folder, header, writer))
    try:
        await asyncio.wait([answer, pouring], return_when=asyncio.FIRST_COMPLETED)
        return await answer
    finally:
        pouring.cancel()
        answer.cancel()
        await asyncio.gather(pouring, answer, return_exceptions=True)


async def _write_files(folder: Path, header: TransferHeader, writer: StreamWriter) -> None:
    for sent in header.files:
        with await asyncio.to_thread((folder / sent.name).open, "rb") as file:
            while chunk := await asyncio.to_thread(file.read, CHUNK_BYTES):
                writer.write(chunk)
                await writer.drain()


async def _read_reply(reader: StreamReader) -> TransferReply:
    line = await reader.readline()
    try:
        return msgspec.json.decode(line, type=TransferReply)
    except msgspec.MsgspecError:
        return TransferReply(error="it disconnected")
