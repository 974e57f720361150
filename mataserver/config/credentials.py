"""API keys: from the settings, or generated at the first start and stored in ``data_dir``.

With a ``shared_dir`` the generated key is stored there, so that every front-end accepts it.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import secrets
from typing import TYPE_CHECKING

from mataserver.config import ApiKey
from mataserver.config.storage import os_errors_as
from mataserver.principals import EVERYTHING, Principal, key_id

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from mataserver.config import Settings

FILE = "api_key"


def key_file(settings: Settings) -> Path:
    """Return the path of the generated key."""
    return settings.shared_path / FILE


def stored_key(settings: Settings) -> str | None:
    """Return the generated key, or None if it does not exist or cannot be read."""
    try:
        return key_file(settings).read_text(encoding="ascii").strip() or None
    except (OSError, UnicodeDecodeError):
        return None


def server_keys(settings: Settings) -> tuple[tuple[ApiKey, ...], bool]:
    """Return the accepted keys, and whether one was just generated.

    A new key is stored with mode 0600. Raises ``MataError`` if it cannot be stored.
    """
    if settings.keys or settings.auth_mode == "none":
        return settings.key_entries, False
    stored = stored_key(settings)
    if stored:
        return (ApiKey(key=stored),), False
    with os_errors_as("could not store the API key", key_file(settings)):
        key, made = _stored(key_file(settings))
    return (ApiKey(key=key),), made


def _stored(path: Path) -> tuple[str, bool]:
    """Return the key in a file, generating it if missing, and whether it was generated.

    The file lock makes front-ends that start at the same time agree on one key.
    """
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "r+", encoding="ascii", errors="replace") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        known = file.read().strip()
        if known.isascii() and known:
            return known, False
        os.fchmod(file.fileno(), 0o600)
        key = "mata_" + secrets.token_urlsafe(24)
        file.seek(0)
        file.truncate()
        file.write(key + "\n")
    return key, True


def client_key(settings: Settings) -> str | None:
    """Return the key that the local command line uses, or None.

    Prefers ``api_key``, else the key with the widest scopes: whoever can read the settings has them
    all.
    """
    entries = sorted(settings.key_entries, key=_reach, reverse=True)
    listed = next((entry.key for entry in entries), None)
    return settings.api_key or listed or stored_key(settings)


def _reach(entry: ApiKey) -> int:
    """Return a sort key by breadth of scopes; equal keys keep their order."""
    if entry.scopes is None:
        return len(EVERYTHING) + 1
    return len(EVERYTHING) if "admin" in entry.scopes else len(set(entry.scopes))


class KeyRing:
    """The accepted keys and their principals, found by the keys' digests.

    However long a lookup takes tells nothing of a key: nobody can aim at a digest. It takes as long
    for one key as for thousands.
    """

    def __init__(self, entries: Iterable[ApiKey]) -> None:
        self._known = {_digest(entry.key): _principal(entry) for entry in entries}

    def principal(self, secret: str) -> Principal | None:
        """Return the principal of a secret, or None."""
        return self._known.get(_digest(secret))

    @property
    def first(self) -> Principal | None:
        """The principal of the first unrestricted key: the operator may act as that one."""
        return next((each for each in self._known.values() if each.unrestricted), None)


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()


def _principal(entry: ApiKey) -> Principal:
    scopes = EVERYTHING if entry.scopes is None else frozenset(entry.scopes)
    return Principal(key_id(entry.key), entry.name, "key", scopes)
