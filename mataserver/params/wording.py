"""What msgspec finds wrong with a value, in words that begin with the field."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from mataserver.suggestion import known_at, similar

if TYPE_CHECKING:
    import msgspec

MAX_SAID = 200
_AT = " - at `$"


def describe(error: msgspec.ValidationError, root: str, kind: Any = None) -> str:
    """Turn msgspec's message into ``"params.confidence: expected `float`, got `str`"``.

    With the type ``kind`` that was asked for it tells what may have been meant.
    """
    message, path = split(str(error))
    known = [] if kind is None else known_at(kind, path)
    where = _join(root, path)
    missing = re.fullmatch(r"Object missing required field `(\w+)`", message)
    if missing:
        return f"{where}{'.' if where else ''}{missing[1]}: field is required"
    unknown = re.fullmatch(r"Object contains unknown field `(.*)`", message)
    if unknown:
        name = unknown[1][:64]
        return f"{where}{'.' if where else ''}{name}: unknown key{similar(name, known)}"
    sentence = sentence_of(message)
    if known and sentence.startswith("invalid enum value"):
        sentence += f": one of {', '.join(known)}"
    return f"{where}: {sentence}" if where else sentence


def split(text: str) -> tuple[str, str]:
    """Split msgspec's message from its path: at the last mark, as a quoted value may hold one."""
    message, mark, path = text.rpartition(_AT)
    return (message, path.rstrip("`")) if mark else (text, "")


def _join(root: str, path: str) -> str:
    return (root + path).lstrip(".")


def sentence_of(message: str) -> str:
    """Return msgspec's message as a part of a sentence, of a length that can be shown."""
    # msgspec quotes a value that is none of an enumeration's in full, and the client sent it.
    shown = message if len(message) <= MAX_SAID else message[:MAX_SAID] + "…"
    return shown[:1].lower() + shown[1:]
