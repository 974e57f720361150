"""Content negotiation by weights (RFC 9110, sections 12.5.1 and 12.5.3)."""

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
"""Media ranges: the format of a whole answer that each selects, and its specificity.

A wildcard selects JSON.
"""


def prefers_events(accept: str) -> bool:
    """Whether events are accepted by name, with at least the weight of any whole answer."""
    if EVENT_STREAM not in accept.lower():
        return False
    weight = max((each for kind, each in _weights(accept) if kind == EVENT_STREAM), default=0.0)
    return weight > 0 and weight >= best_format(accept)[1]


def accepts_gzip(accept_encoding: str) -> bool:
    """Whether a client accepts gzip, by name or as any encoding; a weight of 0 refuses it."""
    weights = dict(_weights(accept_encoding))
    return weights.get("gzip", weights.get("*", 0.0)) > 0


def best_format(accept: str) -> tuple[Format, float]:
    """Return the format with the highest weight, and that weight: JSON and 0 if none is accepted.

    Of equal ones it is the first. The most specific range determines a format's weight.
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
    """Yield each type in lower case with its weight, by default 1."""
    for choice in accept.split(","):
        kind, *parameters = choice.split(";")
        weight = 1.0
        for each in parameters:
            name, _, value = each.partition("=")
            if name.strip().lower() == "q":
                weight = _parse_weight(value.strip())
        yield kind.strip().lower(), weight


def _parse_weight(text: str) -> float:
    """Return a weight; an invalid one counts as 1, the default."""
    try:
        weight = float(text)
    except ValueError:
        return 1.0
    return weight if 0 <= weight <= 1 else 1.0
