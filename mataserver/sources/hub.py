"""Models of the hub: configuration, and download in a child process."""

from __future__ import annotations

import asyncio
import logging
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from mataserver.errors import BadRequest
from mataserver.processes import variables
from mataserver.processes.child import run_process
from mataserver.sources.cache import cache_directory, cached
from mataserver.sources.local import MAX_CONFIG_BYTES, parse_config, read_config
from mataserver.sources.messages import Completed, FetchFailure, Message, SourceUnreachable

if TYPE_CHECKING:
    from collections.abc import Callable

    from mataserver.sources.messages import Progress

STALL_SECONDS = 60.0

_PART = r"[A-Za-z0-9_](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?"
_REPO_ID = re.compile(rf"(?:{_PART}/)?{_PART}", re.ASCII)
# A line may contain a whole configuration, with every character escaped.
_LINE_LIMIT = 6 * MAX_CONFIG_BYTES + 1024
_CHILD = "mataserver.sources.fetch"
# Progress bars would be invisible. Plain HTTP is used because only that allows resuming a partial
# file after an interruption.
_CHILD_ENVIRONMENT = {
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_XET": "1",
}

_DECODER: msgspec.json.Decoder[Message] = msgspec.json.Decoder(Message)

log = logging.getLogger(__name__)


def validate_repo_id(text: str) -> str:
    """Return ``text`` if it is an id of the hub: "org/name", or a legacy name without a slash.

    Raises ``BadRequest`` for anything else, including URLs and file system paths.
    """
    if "--" in text or ".." in text or text.endswith(".git") or not _REPO_ID.fullmatch(text):
        raise BadRequest("not a model id of the hub: expected org/name, not a URL or a path")
    return text


async def fetch_config(repo_id: str) -> dict[str, Any]:
    """Return the repository's ``config.json``, without writing to the cache.

    Without a connection to the hub, returns that of a complete cached snapshot. Raises
    ``BadRequest`` (``SourceUnreachable`` without either).
    """
    try:
        config = await _run_child("config", repo_id, STALL_SECONDS)
    except SourceUnreachable:
        if (snapshot := cached(repo_id)) is None:
            raise
        return await asyncio.to_thread(read_config, snapshot)
    return parse_config(config)


async def download(
    repo_id: str,
    on_progress: Callable[[Progress], None] | None = None,
    *,
    stall_seconds: float = STALL_SECONDS,
) -> Path:
    """Download a repository's relevant files to the hub's cache; return the snapshot directory.

    Resumes an interrupted download. Cancelling stops the child and keeps what has arrived. Without
    a connection to the hub, returns a complete cached snapshot. Raises ``BadRequest``, also if
    nothing arrives for ``stall_seconds``.
    """
    try:
        return Path(await _run_child("download", repo_id, stall_seconds, on_progress))
    except SourceUnreachable:
        if (snapshot := cached(repo_id)) is None:
            raise
        log.warning("the hub cannot be reached; using the cached copy of %s", repo_id)
        return snapshot


async def _run_child(
    command: str,
    repo_id: str,
    stall_seconds: float,
    on_progress: Callable[[Progress], None] | None = None,
) -> str:
    validate_repo_id(repo_id)
    async with run_process(
        _CHILD,
        (command, repo_id),
        environment=_CHILD_ENVIRONMENT,
        inherit=variables.HUB,
        line_limit=_LINE_LIMIT,
    ) as child:
        while True:
            try:
                line = await asyncio.wait_for(child.output.readline(), stall_seconds)
            except TimeoutError:
                raise SourceUnreachable("cannot reach the hub: it has stopped answering") from None
            if not line:
                log.error("the download child failed: %s", await child.last_words())
                raise BadRequest(f"the download of {repo_id} has ended unexpectedly")
            message = _DECODER.decode(line)
            if isinstance(message, FetchFailure):
                place = ""
                if message.kind == "unwritten":
                    place = f"{cache_directory()}; HF_HOME or HF_HUB_CACHE names the directory"
                raise message.error(place)
            if isinstance(message, Completed):
                return message.value
            if on_progress is not None:
                on_progress(message)
