"""Which frames a propagation visits, and in which order."""

from __future__ import annotations

import pytest

from mataserver import InvalidParams
from mataserver_sam.propagation import legs, steps

PLANS = {
    "forward": ("forward", 6, None, [6, 7, 8, 9], []),
    "forward, some": ("forward", 2, 3, [2, 3, 4], []),
    "forward, one": ("forward", 9, 5, [9], []),
    "backward": ("backward", 3, None, [], [3, 2, 1, 0]),
    "backward, some": ("backward", 3, 2, [], [3, 2]),
    "backward from the first": ("backward", 0, None, [], [0]),
    "both": ("both", 3, None, [3, 4, 5, 6, 7, 8, 9], [2, 1, 0]),
    "both, half each": ("both", 5, 4, [5, 6], [4, 3]),
    "both, an odd number": ("both", 5, 5, [5, 6, 7], [4, 3]),
    "both, little behind": ("both", 1, 6, [1, 2, 3, 4, 5], [0]),
    "both, little ahead": ("both", 8, 6, [8, 9], [7, 6, 5, 4]),
    "both from the first": ("both", 0, 3, [0, 1, 2], []),
    "both from the last": ("both", 9, 3, [9], [8, 7]),
    "both, one": ("both", 5, 1, [5], []),
    "both, more than there are": ("both", 5, 99, [5, 6, 7, 8, 9], [4, 3, 2, 1, 0]),
}


@pytest.mark.parametrize(
    ("direction", "start", "limit", "forward", "backward"), PLANS.values(), ids=PLANS
)
def test_plans(direction, start, limit, forward, backward):
    """No frame twice, never more than the limit, and the limit where there are enough frames."""
    visited = list(steps(legs(10, direction, start, limit)))
    assert visited == [(each, False) for each in forward] + [(each, True) for each in backward]


def test_a_start_beyond_the_end():
    """There is no frame 10 in a video of 10 frames."""
    with pytest.raises(InvalidParams, match="start_frame_index: the video has 10 frames"):
        legs(10, "both", 10, None)
