"""The graph of overlapping photographs: verified pairs, and the scenes that they form."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable

    import networkx as nx
    from numpy.typing import NDArray

MIN_INLIERS = 15
"""The least number of geometrically consistent matches of a pair."""

_RESOLUTION = 0.3
_BLOCK = 1_024
"""Points per matrix product: their counts are exact in 32 bits."""
_FLAT = frozenset({"PANORAMIC", "PLANAR_OR_PANORAMIC"})


class Pair(NamedTuple):
    """A verified pair: two files, the number of inliers, and the type of motion."""

    first: str
    second: str
    inliers: int
    motion: str

    @property
    def flat(self) -> bool:
        """Whether it gives no depth: a flat object, or a camera that was only rotated.

        COLMAP can rarely distinguish the two: a homography fits both.
        """
        return self.motion in _FLAT

    @property
    def still(self) -> bool:
        """Whether what they share is in the same place of both, as before a fixed camera."""
        return self.motion == "WATERMARK"


class Graph(NamedTuple):
    """The photographs after matching.

    keypoints: number of features by file.
    pairs:     the verified ones, with at least ``MIN_INLIERS`` each.
    detected:  whether features were found before photographs were matched.
    """

    keypoints: dict[str, int]
    pairs: list[Pair]
    detected: bool = True

    def best(self, file: str) -> Pair | None:
        """Return the strongest pair of a photograph, if it has any."""
        own = [pair for pair in self.pairs if file in {pair.first, pair.second}]
        return max(own, key=lambda pair: pair.inliers, default=None)


def clusters(graph: Graph, how: str) -> list[list[str]]:
    """Return the scenes, each a sorted list of files, the largest first; including single ones."""
    import networkx as nx

    network = _network(graph)
    if how == "louvain":
        found = nx.community.louvain_communities(network, resolution=_RESOLUTION, seed=0)
    else:
        found = list(nx.connected_components(network))
    return sorted((sorted(each) for each in found), key=lambda each: (-len(each), each))


def adds_photos(placed: list[set[str]]) -> list[bool]:
    """Return which models place a photograph that no earlier one does, from the files of each.

    COLMAP starts another model where one ended, with photographs of that one, and may get no
    further.
    """
    seen: set[str] = set()
    found = []
    for files in placed:
        found.append(not files <= seen)
        seen |= files
    return found


def largest_connected(tracks: Iterable[set[int]]) -> set[int]:
    """Return the photographs of the largest part that points connect.

    ``tracks`` are the photographs that see each point. ``MIN_INLIERS`` shared points connect two.
    """
    import networkx as nx

    seen = [list(track) for track in tracks]
    numbers = sorted({number for track in seen for number in track})
    tied: nx.Graph[int] = nx.Graph()
    tied.add_edges_from(
        (numbers[one], numbers[two])
        for one, two in np.argwhere(_shared_points(seen, numbers) >= MIN_INLIERS).tolist()
        if one < two
    )
    return max(nx.connected_components(tied), key=len, default=set())


def _shared_points(tracks: list[list[int]], numbers: list[int]) -> NDArray[np.float64]:
    """Return how many points each two photographs share, as a square over ``numbers``.

    Computed as products of matrices: where a camera stands still each point is in all photographs,
    and counting pair by pair takes minutes, in which no job can be stopped.
    """
    place = {number: at for at, number in enumerate(numbers)}
    found = np.zeros((len(numbers), len(numbers)))
    for begin in range(0, len(tracks), _BLOCK):
        block = tracks[begin : begin + _BLOCK]
        sees = np.zeros((len(block), len(numbers)), np.float32)
        for row, track in zip(sees, block, strict=True):
            row[[place[number] for number in track]] = 1
        found += sees.T @ sees
    return found


def _network(graph: Graph) -> nx.Graph[str]:
    import networkx as nx

    network: nx.Graph[str] = nx.Graph()
    network.add_nodes_from(sorted(graph.keypoints))
    network.add_weighted_edges_from((pair.first, pair.second, pair.inliers) for pair in graph.pairs)
    return network
