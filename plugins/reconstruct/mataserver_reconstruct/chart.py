"""The graph of matched pairs as SVG: photographs on a circle, with lines between matches."""

from __future__ import annotations

import html
import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mataserver_reconstruct.graph import Pair
    from mataserver_reconstruct.verdicts import Verdict

_SIDE, _RING, _MARGIN = 760, 330, 20
_COLOURS = ("#2b6cb0", "#c05621", "#2f855a", "#6b46c1", "#b83280", "#975a16")
_OUT = "#999"


def svg(verdicts: list[Verdict], pairs: list[Pair]) -> str:
    """Return the graph as SVG: the thicker a line, the more matches agree."""
    places = [_place(at, len(verdicts)) for at in range(len(verdicts))]
    of_file = {
        verdict.photo.file: place
        for verdict, place in zip(reversed(verdicts), reversed(places), strict=True)
    }  # of photographs that are the same, the first one's
    scenes = sorted({v.scene for v in verdicts if v.pose is not None})
    colours = {scene: _COLOURS[at % len(_COLOURS)] for at, scene in enumerate(scenes)}
    strongest = max((pair.inliers for pair in pairs), default=1)
    lines = [_line(pair, of_file, strongest) for pair in sorted(pairs, key=lambda p: p.inliers)]
    dots = [
        _dot(at, verdict, place, colours)
        for at, (verdict, place) in enumerate(zip(verdicts, places, strict=True))
    ]
    body = "".join((*lines, *dots))
    # Fit the height to the contents: three photographs leave the lowest quarter empty.
    heights = [y for _, y in places] or [_SIDE / 2]
    top, height = min(heights) - _MARGIN, max(heights) - min(heights) + 2 * _MARGIN
    return f'<svg viewBox="0 {top:.1f} {_SIDE} {height:.1f}" role="img">{body}</svg>'


def _place(at: int, count: int) -> tuple[float, float]:
    angle = 2 * math.pi * at / max(count, 1) - math.pi / 2
    return _SIDE / 2 + _RING * math.cos(angle), _SIDE / 2 + _RING * math.sin(angle)


def _line(pair: Pair, places: dict[str, tuple[float, float]], strongest: int) -> str:
    (x1, y1), (x2, y2) = places[pair.first], places[pair.second]
    part = math.sqrt(pair.inliers / strongest)
    return (
        f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="#4a5568" '
        f'stroke-opacity="{0.1 + 0.6 * part:.2f}" stroke-width="{0.5 + 3 * part:.1f}">'
        f"<title>{pair.inliers} matches</title></line>"
    )


def _dot(at: int, verdict: Verdict, place: tuple[float, float], colours: dict[str, str]) -> str:
    x, y = place
    colour = _OUT if verdict.pose is None else colours[verdict.scene]
    name = html.escape(verdict.photo.name)
    return (
        f'<g><title>{name}</title><circle cx="{x:.1f}" cy="{y:.1f}" r="13" fill="{colour}"/>'
        f'<text x="{x:.1f}" y="{y + 4:.1f}" fill="white" font-size="12" text-anchor="middle">'
        f"{at + 1}</text></g>"
    )
