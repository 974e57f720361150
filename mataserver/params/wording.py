"""Rewrites msgspec's validation errors as messages that begin with the field."""

from __future__ import annotations

import ast
import re
from typing import TYPE_CHECKING, Any

from mataserver.suggestion import names_at, patterns_of, similar

if TYPE_CHECKING:
    import msgspec

MAX_MESSAGE = 200
_AT = " - at `$"
_KEY = " - at `key` in `$"
"""Markers before the path of an invalid value, and of an invalid key."""


def describe(error: msgspec.ValidationError, root: str, kind: Any = None) -> str:
    """Convert msgspec's message to ``"params.confidence: expected `float`, got `str`"``.

    With the target type ``kind``, suggests what may have been meant.
    """
    message, path = split(str(error))
    known = [] if kind is None else names_at(kind, path)
    where = (root + path).lstrip(".")
    missing = re.fullmatch(r"Object missing required field `(\w+)`", message)
    if missing:
        return f"{where}{'.' if where else ''}{missing[1]}: field is required"
    unknown = re.fullmatch(r"Object contains unknown field `(.*)`", message)
    if unknown:
        name = unknown[1][:64]
        return f"{where}{'.' if where else ''}{name}: unknown key{similar(name, known)}"
    pattern = re.fullmatch(r"Expected `str` matching regex (.*)", message)
    if pattern and kind is not None:
        words = patterns_of(kind).get(ast.literal_eval(pattern[1]))
        message = f"expected {words}" if words else message
    sentence = sentence_of(message)
    if known and sentence.startswith("invalid enum value"):
        sentence += f": one of {', '.join(known)}"
    return f"{where}: {sentence}" if where else sentence


def split(text: str) -> tuple[str, str]:
    """Split msgspec's message from its path, at the last marker: a quoted value may contain one."""
    message, mark, path = text.rpartition(_AT)
    if not mark:
        message, mark, path = text.rpartition(_KEY)
    return (message, path.rstrip("`")) if mark else (text, "")


def sentence_of(message: str) -> str:
    """Return msgspec's message as part of a sentence, truncated for display."""
    # msgspec quotes an invalid enumeration value in full, and the client chose its length.
    shown = message if len(message) <= MAX_MESSAGE else message[:MAX_MESSAGE] + "…"
    return shown[:1].lower() + shown[1:]
