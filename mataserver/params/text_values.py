"""Parsing of values as people write them in forms, queries and variables."""

from __future__ import annotations

import re
from typing import Any

import msgspec

# Common spellings of numbers. A query's "+" arrives as a space.
_NUMBER = re.compile(r"([ +-]?)(\d*)(\.?)(\d*)([eE][+-]?\d+)?", re.ASCII)


def from_text(text: str, kind: Any) -> Any:
    """Parse text from a form, a query or a variable as ``kind``.

    Accepts numbers like ``.8``, ``1.``, ``+0.5`` and ``1e-1``. Raises ``msgspec.ValidationError``.
    """
    try:
        return msgspec.convert(text, kind, strict=False)
    except msgspec.ValidationError:
        plain = plain_number(text)
        if plain == text:
            raise
    return msgspec.convert(plain, kind, strict=False)


def plain_number(text: str) -> str:
    """Rewrite a number in JSON's syntax; return any other text unchanged."""
    found = _NUMBER.fullmatch(text)
    if found is None or not found[2] + found[4]:
        return text
    sign, whole, point, fraction, exponent = found.groups("")
    decimals = f".{fraction or '0'}" if point else ""
    return f"{sign if sign == '-' else ''}{whole.lstrip('0') or '0'}{decimals}{exponent}"
