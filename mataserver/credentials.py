"""API keys: those of the settings, or one made at the first start and kept in ``data_dir``."""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from typing import TYPE_CHECKING

from mataserver.storage import told

if TYPE_CHECKING:
    from pathlib import Path

    from mataserver.config import Settings

FILE = "api_key"


def key_file(settings: Settings) -> Path:
    """Where the generated key is kept."""
    return settings.data_path / FILE


def stored_key(settings: Settings) -> str | None:
    """Return the generated key, or None when there is none that can be read."""
    try:
        return key_file(settings).read_text(encoding="ascii").strip() or None
    except (OSError, UnicodeDecodeError):
        return None


def server_keys(settings: Settings) -> tuple[tuple[str, ...], bool]:
    """Return the keys the server accepts, and whether one was made just now.

    A new key is stored with mode 0600. Raises ``MataError`` when it cannot be stored.
    """
    if settings.keys or settings.auth_mode == "none":
        return settings.keys, False
    stored = stored_key(settings)
    if stored:
        return (stored,), False
    key = "mata_" + secrets.token_urlsafe(24)
    with told("could not store the API key", key_file(settings)):
        settings.data_path.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(key_file(settings), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            os.fchmod(file.fileno(), 0o600)
            file.write(key + "\n")
    return (key,), True


def client_key(settings: Settings) -> str | None:
    """Return the key that the local command line uses, or None."""
    return settings.api_key or next(iter(settings.api_keys), None) or stored_key(settings)


class KeyRing:
    """The accepted keys, compared in constant time."""

    def __init__(self, keys: tuple[str, ...]) -> None:
        self._digests = [hashlib.sha256(key.encode()).digest() for key in keys]

    def accepts(self, token: str) -> bool:
        """Whether ``token`` is one of the keys; every key is compared."""
        digest = hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
        matches = [hmac.compare_digest(digest, known) for known in self._digests]
        return any(matches)
