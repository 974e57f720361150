"""Pulls from the sources of plugins: in a child process, checked, and then made the model."""

from __future__ import annotations

import asyncio
import logging
import re
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from mataserver.errors import BadRequest
from mataserver.finishing import wait_out
from mataserver.processes.child import run_process
from mataserver.sources import source_child
from mataserver.sources.messages import (
    Fetched,
    FetchFailure,
    FetchMessage,
    FetchOrder,
    Progress,
    SourceUnreachable,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from mataserver.contract.source import SourceSpec
    from mataserver.processes.child import Child
    from mataserver.sources.pulled import PartialModel

T = TypeVar("T")

# A part of a model's name, which stands in the paths of the API.
_PART = r"(?!\.)[A-Za-z0-9_.~+=,:@-]+"
_REFERENCE = re.compile(rf"(?:{_PART}/)*{_PART}", re.ASCII)
_MAX_LENGTH = 400
_START_SECONDS = 60.0
"""Seconds for a child to begin: it imports the plugin, on a machine that may be busy."""
_DECODER: msgspec.json.Decoder[FetchMessage] = msgspec.json.Decoder(FetchMessage)

log = logging.getLogger("mataserver.pulls")


def validate_reference(spec: SourceSpec, reference: str) -> None:
    """Raise ``BadRequest`` for what is no reference of a source."""
    if (
        len(reference) > _MAX_LENGTH
        or not _REFERENCE.fullmatch(reference)
        or not re.fullmatch(spec.pattern, reference)
    ):
        raise BadRequest(
            f"not a reference of the source {spec.name}: expected {spec.name}:{spec.example}"
        )


async def pull(
    spec: SourceSpec,
    settings: Any,
    partial: PartialModel,
    on_progress: Callable[[Progress], None],
    check: Callable[[Path], None],
) -> Path:
    """Fetch a new version of a model, and return the path from which it is served.

    ``check`` raises a ``MataError`` if it cannot be served: then, and if anything else fails or the
    caller is cancelled, nothing is left, and an earlier version stays the model. If the source
    cannot be reached, the earlier version is returned. Raises ``BadRequest``.
    """
    validate_reference(spec, partial.reference)
    try:
        await finish(partial.begin)
        file = await _run_child(spec, settings, partial, on_progress)
        await finish(check, await finish(partial.check, file))
        path = await finish(partial.complete)
        partial.accept()
        return path
    except SourceUnreachable:
        if (former := partial.former) is None:
            raise
        await finish(check, former)
        log.warning("the source %s cannot be reached; using the copy of %s", spec.name, partial)
        return former
    finally:
        await finish(partial.discard)


async def _run_child(
    spec: SourceSpec,
    settings: Any,
    partial: PartialModel,
    on_progress: Callable[[Progress], None],
) -> str | None:
    """Run the plugin's function in a child; return the file to serve, if it named one."""
    order = FetchOrder(
        fetch=_qualified(spec.fetch),
        source=spec.name,
        model=str(partial),
        reference=partial.reference,
        folder=str(partial.folder),
        settings=msgspec.Raw(msgspec.json.encode(settings)),
        settings_type=None if settings is None else _qualified(type(settings)),
    )
    async with run_process(source_child.run, inherit=spec.inherit) as child:
        try:
            await child.send(order)
            message = await _result(child, spec, on_progress)
        except (ConnectionError, msgspec.DecodeError, ValueError):
            message = None
        if isinstance(message, Fetched):
            return message.file
        await child.end()
        if words := await child.last_words():
            log.error("the pull of %s failed: %s", partial, words)
    if message is None:
        raise BadRequest(f"the pull of {partial} has ended unexpectedly")
    raise message.error()


async def _result(
    child: Child, spec: SourceSpec, on_progress: Callable[[Progress], None]
) -> Fetched | FetchFailure | None:
    """Return a child's last message; None if it ended without one."""
    last: Progress | None = None
    seconds = max(spec.stall_timeout, _START_SECONDS)
    while True:
        try:
            line = await asyncio.wait_for(child.output.readline(), seconds)
        except TimeoutError:
            detail = f"the source {spec.name} made no progress for {seconds:g} seconds"
            return FetchFailure("unreachable", detail)
        if not line:
            return None
        message = _DECODER.decode(line)
        if not isinstance(message, Progress):
            return message
        seconds = spec.stall_timeout
        if message != last:  # else a sign of life
            last = message
            on_progress(message)


async def finish(function: Callable[..., T], *arguments: Any) -> T:
    """Call a blocking function in a thread; if cancelled, wait for its end first."""
    task = asyncio.ensure_future(asyncio.to_thread(function, *arguments))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await wait_out(task)
        raise


def _qualified(thing: Any) -> str:
    return f"{thing.__module__}:{thing.__qualname__}"
