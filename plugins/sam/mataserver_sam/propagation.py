"""The order in which a propagation visits frames."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

from mataserver import InvalidParams

if TYPE_CHECKING:
    from collections.abc import Iterator

Direction = Literal["forward", "backward", "both"]


class Leg(NamedTuple):
    """A range of frames to visit in order, and whether it goes back in time."""

    frames: range
    reverse: bool


def legs(total: int, direction: Direction, start: int, limit: int | None) -> list[Leg]:
    """Plan a propagation from frame ``start`` of ``total``, over at most ``limit`` frames in all.

    "forward" and "backward" include the start. "both" goes forward first; each direction gets half
    of the limit, and what the other cannot use. Raises ``InvalidParams`` for a start beyond the
    end.
    """
    check_frame("start_frame_index", start, total)
    ahead, behind = total - start, start
    most = total if limit is None else min(limit, total)
    if direction == "backward":
        return [Leg(range(start, start - min(most, behind + 1), -1), reverse=True)]
    if direction == "forward":
        return [Leg(range(start, start + min(most, ahead)), reverse=False)]
    forward = min(ahead, max(most - most // 2, most - behind))
    backward = min(behind, most - forward)
    return [
        Leg(range(start, start + forward), reverse=False),
        Leg(range(start - 1, start - 1 - backward, -1), reverse=True),
    ]


def check_frame(name: str, frame: int, total: int) -> None:
    """Raise ``InvalidParams`` for a frame beyond the end."""
    if frame >= total:
        raise InvalidParams(f"{name}: the video has {total} frames, counted from 0")


def steps(plan: list[Leg]) -> Iterator[tuple[int, bool]]:
    """Yield each frame and whether it is reached going back in time."""
    for leg in plan:
        for frame in leg.frames:
            yield frame, leg.reverse
