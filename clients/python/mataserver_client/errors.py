"""The exceptions of the API: a status and one sentence. The server raises the same ones."""

from __future__ import annotations

import math

from msgspec import Struct


class MataError(Exception):
    """Base class of errors that are an HTTP status and a ``detail``.

    ``status`` is the HTTP status of the API, ``detail`` the one human-readable sentence of the
    answer ``{"detail": ...}``. It must hold no path, no secret and no traceback. ``retry_after``
    (seconds) becomes the ``Retry-After`` header. ``hint`` is for who runs the server or the
    command: it may name a path, goes to the terminal and the log, and never to a client.
    ``lasting`` is set where a model could not be loaded and will not be until something changes.
    """

    status = 500
    lasting = False

    def __init__(
        self,
        detail: str,
        *,
        status: int | None = None,
        retry_after: float | None = None,
        hint: str = "",
    ) -> None:
        """Store the detail for clients, and the hint for operators."""
        super().__init__(detail)
        self.detail = detail
        self.status = self.status if status is None else status
        self.retry_after = retry_after
        self.hint = hint

    @property
    def retry_seconds(self) -> int | None:
        """``retry_after`` in whole seconds, rounded up and at least 1; None if it is unknown."""
        return None if self.retry_after is None else max(1, math.ceil(self.retry_after))

    @property
    def told(self) -> str:
        """The message for operators: the detail with the hint."""
        return f"{self.detail} ({self.hint})" if self.hint else self.detail


class BadRequest(MataError):
    """400: the request cannot be read: no image, wrong base64, bytes that no decoder takes."""

    status = 400


class NotFound(MataError):
    """404: no such model, session or route."""

    status = 404


class Conflict(MataError):
    """409: the same thing is already being done."""

    status = 409


class InvalidParams(MataError):
    """422: a field has the wrong type, is out of range, is unknown, or is missing."""

    status = 422


class Unavailable(MataError):
    """503: not now: a limit is reached, a worker is being replaced, a package is missing."""

    status = 503


class Shortage(Struct, frozen=True):
    """Which memory falls short, "ram" or "cuda:0" and so on, and by how much, in MB of 1e6 bytes.

    ``free_mb`` is what would be free of ``limit_mb``, the server's own limit there, without all
    that can be evicted.
    """

    device: str
    needed_mb: float
    free_mb: float
    limit_mb: float


class OutOfMemory(MataError):
    """507: the model or the request does not fit into RAM or VRAM.

    ``shortage`` has the figures of a model that does not fit, None where they are not known.
    """

    status = 507
    shortage: Shortage | None = None
