"""What a client's ``Accept`` asks for, by its weights (RFC 9110, section 12.5.1)."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mataserver.contract.envelope import Format

EVENT_STREAM = "text/event-stream"
_MEDIA_RANGES: dict[str, tuple[Format, int]] = {
    "application/msgpack": ("msgpack", 2),
    "application/x-msgpack": ("msgpack", 2),
    "application/json": ("json", 2),
    "application/*": ("json", 1),
    "*/*": ("json", 0),
}
"""Media ranges: the form of a whole answer that each selects, and how specific it is.

A wildcard selects JSON.
"""


def preferred_format(accept: str | None) -> Format:
    """Return the form that is wanted most, of equal ones the first; JSON where there is none."""
    if accept is None:
        return "json"
    return _best_format(accept)[0]


def prefers_events(accept: str) -> bool:
    """Whether events are asked for by name, and no whole answer is wanted more."""
    if EVENT_STREAM not in accept.lower():
        return False
    weight = max((each for kind, each in _weights(accept) if kind == EVENT_STREAM), default=0.0)
    return weight > 0 and weight >= _best_format(accept)[1]


def _best_format(accept: str) -> tuple[Format, float]:
    """Return the form with the highest weight, and that weight: 0 where no form is accepted.

    The most specific range decides the weight of a form.
    """
    weights: dict[Format, tuple[int, float]] = {}
    for kind, weight in _weights(accept):
        if kind in _MEDIA_RANGES:
            found, specific = _MEDIA_RANGES[kind]
            weights[found] = max((specific, weight), weights.get(found, (-1, 0.0)))
    accepted: dict[Format, float] = {found: weight for found, (_, weight) in weights.items()}
    best: Format = max(accepted, key=accepted.__getitem__) if accepted else "json"
    most = accepted.get(best, 0.0)
    return best if most > 0 else "json", most


def _weights(accept: str) -> Iterator[tuple[str, float]]:
    """Yield each type in lower case with its weight, which is 1 where none is told."""
    for choice in accept.split(","):
        kind, *parameters = choice.split(";")
        weight = 1.0
        for each in parameters:
            name, _, value = each.partition("=")
            if name.strip().lower() == "q":
                weight = _parse_weight(value.strip())
        yield kind.strip().lower(), weight


def _parse_weight(text: str) -> float:
    """Return a weight; what is none is taken for 1, as if it were not there."""
    try:
        weight = float(text)
    except ValueError:
        return 1.0
    return weight if 0 <= weight <= 1 else 1.0
