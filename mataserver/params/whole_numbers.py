"""Integers written with a decimal point.

JSON has one kind of number: 5.0 is the integer 5, in JSON Schema too, and clients whose language
has only floating point numbers send it so. msgspec refuses it where a type has an ``int``.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import msgspec

_REFUSED = re.compile(r"Expected `[^`]*\bint\b[^`]*`, got `float`")
_MAX_EXACT = 2**53
"""From here on a float may be another integer than the one that was written."""


def are_refused(error: msgspec.ValidationError) -> bool:
    """Whether a validation error may be about such an integer."""
    return _REFUSED.search(str(error)) is not None


def as_integers(value: Any) -> Any:
    """Return decoded JSON with every such float as an int."""
    if isinstance(value, float):
        return int(value) if abs(value) < _MAX_EXACT and value.is_integer() else value
    if isinstance(value, dict):
        return {name: as_integers(each) for name, each in value.items()}
    return [as_integers(each) for each in value] if isinstance(value, list | tuple) else value
