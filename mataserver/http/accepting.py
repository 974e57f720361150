"""What a client's ``Accept`` asks for, by its weights (RFC 9110, section 12.5.1)."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mataserver.contract.envelope import Format

EVENTS = "text/event-stream"
_FORMS: dict[str, Format] = {
    "application/msgpack": "msgpack",
    "application/x-msgpack": "msgpack",
    "application/json": "json",
    "application/*": "json",
    "*/*": "json",
}
"""The forms of a whole answer; what takes any is given JSON."""


def form(accept: str | None) -> Format:
    """Return the form that is wanted most, of equal ones the first; JSON where there is none."""
    if accept is None:
        return "json"
    return _wanted(accept)[0]


def events(accept: str) -> bool:
    """Whether events are asked for by name, and no whole answer is wanted more."""
    if EVENTS not in accept.lower():
        return False
    weight = max((each for kind, each in _weighed(accept) if kind == EVENTS), default=0.0)
    return weight > 0 and weight >= _wanted(accept)[1]


def _wanted(accept: str) -> tuple[Format, float]:
    best: Format = "json"
    most = 0.0
    for kind, weight in _weighed(accept):
        found = _FORMS.get(kind)
        if found is not None and weight > most:
            best, most = found, weight
    return best, most


def _weighed(accept: str) -> Iterator[tuple[str, float]]:
    """Yield each type in lower case with its weight, which is 1 where none is told."""
    for choice in accept.split(","):
        kind, *parameters = choice.split(";")
        weight = 1.0
        for each in parameters:
            name, _, value = each.partition("=")
            if name.strip().lower() == "q":
                weight = _weight(value.strip())
        yield kind.strip().lower(), weight


def _weight(text: str) -> float:
    """Return a weight; what is none is taken for 1, as if it were not there."""
    try:
        weight = float(text)
    except ValueError:
        return 1.0
    return weight if 0 <= weight <= 1 else 1.0
