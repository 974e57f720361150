"""What the hook ``auth_mode`` is given."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


@dataclass(frozen=True, slots=True)
class AuthContext:
    """What decides whether a server authenticates, before it starts.

    mode:     the setting ``auth_mode``, "api_key" or "none", if it was given; else None.
    obstacle: which setting does not let the server answer everybody, such as "host is 0.0.0.0":
              others reach it, a key is configured, or ``auth_mode`` says so. None if none does.
    environ:  the variables of the environment, without those of ``.env``.
    dotenv:   the variables of ``.env``.
    warn:     tells the operator a sentence, in the log or in the findings of ``mataserver check``.
    """

    mode: str | None
    obstacle: str | None
    environ: Mapping[str, str]
    dotenv: Mapping[str, str]
    warn: Callable[[str], None]
