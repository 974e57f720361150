"""Conversion of the download child's exceptions to messages for users, without paths or tokens.

The library has changed its HTTP client twice (requests, httpx, httpx2), so transport errors are
identified by library and class names, and their reason by the underlying operating system error.
"""

from __future__ import annotations

import errno
import json
import socket
import ssl
from typing import TYPE_CHECKING

from huggingface_hub.errors import (
    DisabledRepoError,
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from mataserver.sources.messages import HubFailure

if TYPE_CHECKING:
    from collections.abc import Iterator

_CLIENTS = frozenset({"httpx", "httpx2", "httpcore", "httpcore2", "requests", "urllib3"})
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_UNKNOWN = "model not found on the hub: {}"
# Order matters: some of them are subclasses of others.
_REFUSALS: tuple[tuple[type[Exception], str], ...] = (
    (GatedRepoError, "model {} is gated: accept its terms on its page and set HF_TOKEN"),
    (DisabledRepoError, "model {} has been disabled on the hub"),
    (EntryNotFoundError, "{} lacks some of its own files"),
    (RepositoryNotFoundError, _UNKNOWN),
    (RevisionNotFoundError, _UNKNOWN),
)


class RepositoryError(Exception):
    """The repository cannot be used; the message is for the client."""


class DiskSpaceError(RepositoryError):
    """There is no disk space for it; the message is for the client."""


def failure(error: BaseException, repo_id: str) -> HubFailure:
    """Return the failure that an exception means for the model ``repo_id``."""
    chain = list(_chain(error))
    for one in chain:
        if isinstance(one, RepositoryError):
            return HubFailure(
                "unwritten" if isinstance(one, DiskSpaceError) else "refused", str(one)
            )
        if isinstance(one, HfHubHTTPError):
            return _http_failure(one, repo_id)
    for one in chain:
        if isinstance(one, OSError) and one.errno in _FULL:
            return HubFailure("unwritten", f"the disk is full: {repo_id} cannot be stored")
    if any(_is_transport(one) for one in chain):
        return HubFailure("unreachable", f"cannot reach the hub: {_reason(chain)}")
    if isinstance(error, OSError) and error.strerror:
        return HubFailure("unwritten", f"{repo_id} cannot be stored: {error.strerror}")
    return _refusal(f"the download of {repo_id} has failed")


def _http_failure(error: HfHubHTTPError, repo_id: str) -> HubFailure:
    status = error.response.status_code
    for kinds, detail in _REFUSALS:
        if isinstance(error, kinds):
            return _refusal(detail.format(repo_id))
    if status == 404:
        return _refusal(_UNKNOWN.format(repo_id))
    if status in {401, 403}:
        return _refusal(f"the hub refuses access to {repo_id}: check HF_TOKEN")
    if status == 429:
        detail = "cannot reach the hub: it limits requests, try again later"
        return HubFailure("unreachable", detail)
    return HubFailure("unreachable", f"cannot reach the hub: it answers with an error ({status})")


def _reason(chain: list[BaseException]) -> str:
    if any(isinstance(one, OfflineModeIsEnabled) for one in chain):
        return "HF_HUB_OFFLINE is set"
    if any(isinstance(one, ssl.SSLError) for one in chain):
        return "its certificate is not trusted"
    if any("Timeout" in type(one).__name__ for one in chain):
        return "it does not answer in time"
    if any(isinstance(one, json.JSONDecodeError) for one in chain):
        return "the answer is not the hub's"
    for one in chain:
        if isinstance(one, OSError) and one.strerror:
            return one.strerror
    return "the connection broke"


def _is_transport(error: BaseException) -> bool:
    known = ConnectionError | TimeoutError | socket.gaierror | ssl.SSLError | json.JSONDecodeError
    modules = {base.__module__.partition(".")[0] for base in type(error).__mro__}
    return isinstance(error, known) or not _CLIENTS.isdisjoint(modules)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _refusal(detail: str) -> HubFailure:
    return HubFailure("refused", detail)
