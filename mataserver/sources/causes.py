"""The causes of a failed transfer: a full disk, a broken connection, and why.

Client libraries differ and change theirs, so transport errors are identified by library and class
names, and their reason by the underlying operating system error.
"""

from __future__ import annotations

import errno
import socket
import ssl
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_CLIENTS = frozenset({"httpx", "httpx2", "httpcore", "httpcore2", "requests", "urllib3"})
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_UNREACHABLE = frozenset({errno.EHOSTUNREACH, errno.EHOSTDOWN, errno.ENETUNREACH, errno.ENETDOWN})


def chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and those that led to it."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def is_full_disk(error: BaseException) -> bool:
    """Whether an error says that the disk is full."""
    return isinstance(error, OSError) and error.errno in _FULL


def is_transport(error: BaseException) -> bool:
    """Whether an error is one of the connection."""
    known = ConnectionError | TimeoutError | socket.gaierror | ssl.SSLError
    modules = {base.__module__.partition(".")[0] for base in type(error).__mro__}
    unreachable = isinstance(error, OSError) and error.errno in _UNREACHABLE
    return unreachable or isinstance(error, known) or not _CLIENTS.isdisjoint(modules)


def transport_reason(errors: Sequence[BaseException]) -> str:
    """Return why a connection failed."""
    if any(isinstance(one, ssl.SSLError) for one in errors):
        return "its certificate is not trusted"
    if any("Timeout" in type(one).__name__ for one in errors):
        return "it does not answer in time"
    for one in errors:
        if isinstance(one, OSError) and one.strerror:
            return one.strerror
    return "the connection broke"
