"""TLS contexts that read the system's certificates at their first connection, not when made.

aiohttp makes two when it is imported. To read the certificates takes 40 ms and 2 MB, a tenth of the
start of the core, and most servers and commands never open a TLS connection.
"""

from __future__ import annotations

import contextlib
import ssl
import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_METHOD = "set_default_verify_paths"
_OPENERS = ("wrap_bio", "wrap_socket")
"""What begins a connection of a context: asyncio and uvloop call the first, sockets the second."""


@contextlib.contextmanager
def reading_late() -> Iterator[None]:
    """Have contexts that this thread makes meanwhile read the certificates when they are used.

    Those of other threads read them at once. Until a context has read them it trusts nobody.
    """
    kind, importing = ssl.SSLContext, threading.get_ident()
    own, read = vars(kind).get(_METHOD), getattr(kind, _METHOD)

    def postpone(context: ssl.SSLContext) -> None:
        if threading.get_ident() == importing:
            _read_at_first_use(context, read)
        else:
            read(context)

    setattr(kind, _METHOD, postpone)
    try:
        yield
    finally:
        if own is None:  # it is inherited
            delattr(kind, _METHOD)
        else:
            setattr(kind, _METHOD, own)


def _read_at_first_use(context: ssl.SSLContext, read: Callable[[ssl.SSLContext], None]) -> None:
    """Have the first connection of a context read the certificates; others wait for it."""
    lock = threading.Lock()

    def opener(name: str) -> Callable[..., Any]:
        def wrap(*given: Any, **named: Any) -> Any:
            with lock:
                if name in vars(context):
                    read(context)
                    for each in _OPENERS:
                        vars(context).pop(each)
            return getattr(context, name)(*given, **named)

        return wrap

    for name in _OPENERS:
        setattr(context, name, opener(name))
