"""Conversion of the download child's exceptions to messages for users, without paths or tokens.

The library has changed its HTTP client twice: requests, httpx, httpx2 (``causes``).
"""

from __future__ import annotations

import json

from huggingface_hub.errors import (
    DisabledRepoError,
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from mataserver.sources import causes
from mataserver.sources.messages import FetchFailure
from mataserver.sources.meter import NoSpaceError

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


def failure(error: BaseException, repo_id: str) -> FetchFailure:
    """Return the failure that an exception means for the model ``repo_id``."""
    chain = list(causes.chain(error))
    for one in chain:
        if isinstance(one, (RepositoryError, NoSpaceError)):
            kind = "unwritten" if isinstance(one, NoSpaceError) else "refused"
            return FetchFailure(kind, str(one))  # type: ignore[arg-type]
        if isinstance(one, HfHubHTTPError):
            return _http_failure(one, repo_id)
    for one in chain:
        if causes.is_full_disk(one):
            return FetchFailure("unwritten", f"the disk is full: {repo_id} cannot be stored")
    if any(causes.is_transport(one) or isinstance(one, json.JSONDecodeError) for one in chain):
        return FetchFailure("unreachable", f"cannot reach the hub: {_reason(chain)}")
    if isinstance(error, OSError) and error.strerror:
        return FetchFailure("unwritten", f"{repo_id} cannot be stored: {error.strerror}")
    return _refusal(f"the download of {repo_id} has failed")


def _http_failure(error: HfHubHTTPError, repo_id: str) -> FetchFailure:
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
        return FetchFailure("unreachable", detail)
    return FetchFailure("unreachable", f"cannot reach the hub: it answers with an error ({status})")


def _reason(chain: list[BaseException]) -> str:
    if any(isinstance(one, OfflineModeIsEnabled) for one in chain):
        return "HF_HUB_OFFLINE is set"
    if any(isinstance(one, json.JSONDecodeError) for one in chain):
        return "the answer is not the hub's"
    return causes.transport_reason(chain)


def _refusal(detail: str) -> FetchFailure:
    return FetchFailure("refused", detail)
