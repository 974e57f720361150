"""What msgspec finds wrong with a value, in words that begin with the field."""

from __future__ import annotations

import ast
import re
from typing import TYPE_CHECKING, Any

from mataserver.suggestion import known_at, patterns_of, similar

if TYPE_CHECKING:
    import msgspec

MAX_SAID = 200
_AT = " - at `$"
_KEY = " - at `key` in `$"
"""Where msgspec says that a value is wrong, and a key."""


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
    pattern = re.fullmatch(r"Expected `str` matching regex (.*)", message)
    if pattern and kind is not None:
        message = _in_words(kind, ast.literal_eval(pattern[1])) or message
    sentence = sentence_of(message)
    if known and sentence.startswith("invalid enum value"):
        sentence += f": one of {', '.join(known)}"
    return f"{where}: {sentence}" if where else sentence


def _in_words(kind: Any, pattern: str) -> str | None:
    """Return what a text of a pattern is: the ``description`` that stands beside it in a type."""
    words = patterns_of(kind).get(pattern)
    return None if words is None else f"expected {words}"


def split(text: str) -> tuple[str, str]:
    """Split msgspec's message from its path: at the last mark, as a quoted value may hold one."""
    message, mark, path = text.rpartition(_AT)
    if not mark:
        message, mark, path = text.rpartition(_KEY)
    return (message, path.rstrip("`")) if mark else (text, "")


def _join(root: str, path: str) -> str:
    return (root + path).lstrip(".")


def sentence_of(message: str) -> str:
    """Return msgspec's message as a part of a sentence, of a length that can be shown."""
    # msgspec quotes a value that is none of an enumeration's in full, and the client sent it.
    shown = message if len(message) <= MAX_SAID else message[:MAX_SAID] + "…"
    return shown[:1].lower() + shown[1:]
