"""Fields of a JSON body that its struct does not have.

The API's document makes only ``params`` strict, so an unknown field beside it is no error. But a
misspelt one is answered as if it were not there, so the answer's ``X-Warning`` and the log name it.
A struct with ``refuses_misspelt`` refuses a field that resembles one of its own.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Raw, Struct

from mataserver.errors import InvalidParams
from mataserver.params.table import OLD_NAMES, ApiParams
from mataserver.suggestion import closest

if TYPE_CHECKING:
    from collections.abc import Iterable

MAX_NAMED = 4
"""Maximum number of fields that a warning names."""
MAX_COMPARED = 16
"""Maximum number of unknown fields that are compared with the known ones."""
_MAX_NAME = 64
_PARAMS = "params"
_NULL = b"null"


def warning(data: bytes, kind: Any) -> str:
    """Return a sentence about the fields of a valid body that are ignored, or "".

    Raises ``InvalidParams`` for a misspelt one if ``kind`` refuses them.
    """
    names, given = _unknown(data, kind)
    if not names:
        return ""
    missing = [name for name in kind.__struct_encode_fields__ if name not in given]
    if getattr(kind, "refuses_misspelt", False):
        _refuse_misspelt(names, missing)
    said = [_sentence(name, missing, kind) for name in names[:MAX_NAMED]]
    return joined([*said, *names[MAX_NAMED:]])  # the others are counted


def hint(missing: str, given: Iterable[str]) -> str:
    """Return which of the given names a missing field was probably sent as, or ""."""
    compared = [name[:_MAX_NAME] for name in islice(given, MAX_COMPARED)]
    meant = closest(missing, compared)
    return "" if meant is None else f"; send {printable(meant)!r} as `{missing}`"


def hint_of_body(missing: str, data: bytes, kind: Any) -> str:
    """Return ``hint`` for a body that lacks a field of its struct."""
    return hint(missing, _unknown(data, kind)[0])


def joined(sentences: Iterable[str]) -> str:
    """Return sentences as one warning, without empty ones: the first ``MAX_NAMED`` of them."""
    given = [each for each in sentences if each]
    more = len(given) - MAX_NAMED
    text = ". ".join([*given[:MAX_NAMED], f"{more} more"] if more > 0 else given)
    return text.replace("?. ", "? ")


def printable(name: str) -> str:
    """Return a name as a header may hold it."""
    return name[:_MAX_NAME].encode("unicode_escape").decode("ascii")


def _unknown(data: bytes, kind: Any) -> tuple[list[str], dict[str, Raw]]:
    """Return the unknown fields that are not null, and every field of the body."""
    if not (isinstance(kind, type) and issubclass(kind, Struct)):
        return [], {}
    config = kind.__struct_config__
    if config.forbid_unknown_fields or config.array_like:
        return [], {}
    try:
        given = msgspec.json.decode(data, type=dict[str, Raw])
    except (msgspec.DecodeError, UnicodeDecodeError):  # a name that is not UTF-8, which is skipped
        return [], {}
    known = {*kind.__struct_encode_fields__, config.tag_field}
    return [
        name for name, value in given.items() if name not in known and bytes(value) != _NULL
    ], given


def _refuse_misspelt(names: list[str], missing: list[str]) -> None:
    for name in islice(names, MAX_COMPARED):
        meant = closest(name, missing)
        if meant is not None:
            raise InvalidParams(f"{name[:_MAX_NAME]}: unknown field; did you mean {meant}?")


def _sentence(name: str, missing: list[str], kind: type[Struct]) -> str:
    said = f"{printable(name)}: unknown field, ignored"
    if name in ApiParams.__struct_fields__ or name in OLD_NAMES:
        if _PARAMS in kind.__struct_encode_fields__:
            return f"{said}; write it into params"
        return said
    meant = closest(name, missing)
    return said if meant is None else f"{said}; did you mean {meant}?"
