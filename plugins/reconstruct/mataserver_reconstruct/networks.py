"""The program of the learned matchers: finds features, or matches pairs, as requested.

``python -m mataserver_reconstruct.networks ORDER`` prints a line for each finished photograph or
pair. One photograph or pair is in memory at a time, and the features of the last few.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol, cast

import msgspec
import numpy as np
from PIL import Image

from mataserver_reconstruct import matchers, measures, sparse
from mataserver_reconstruct.program import MatcherRequest
from mataserver_reconstruct.weights import Matchers

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from mataserver_reconstruct.program import Pair

_CACHED_PHOTOS = 16  # photographs whose features are kept in memory


class Features(NamedTuple):
    """The features of a photograph.

    xy:          their positions ``[n, 2]``; the center of the upper left pixel is 0, 0.
    size:        width and height of the network's input, ``[2]``.
    score:       their scores, ``[n]``.
    descriptors: ``[n, d]`` of length 1 each.
    """

    xy: NDArray[np.float32]
    size: NDArray[np.float32]
    score: NDArray[np.float32]
    descriptors: NDArray[np.float32]


class PairMatches(NamedTuple):
    """The matches of a pair: positions in both, ``[m, 2]``, and their scores.

    The corner of the upper left pixel is 0, 0.
    """

    first: NDArray[np.float32]
    second: NDArray[np.float32]
    score: NDArray[np.float32]


class FeatureNetwork(Protocol):
    """Finds features and matches them. ``side``: the longest side of its input in pixels."""

    side: int
    of_pairs: Literal[False]

    def find(self, pixels: NDArray[np.uint8]) -> Features:
        """Return the features of a picture, uint8 ``[H, W, 3]``."""

    def match(self, first: Features, second: Features) -> NDArray[np.uint32]:
        """Return matches: indices in the features of both, ``[m, 2]``."""


class PairNetwork(Protocol):
    """Matches two pictures. ``side``: the longest side of its input in pixels."""

    side: int
    of_pairs: Literal[True]

    def match_pair(self, first: NDArray[np.uint8], second: NDArray[np.uint8]) -> PairMatches:
        """Return the matches of two pictures, uint8 ``[H, W, 3]`` each."""


def load(matcher: str, settings: Matchers, most: int) -> FeatureNetwork | PairNetwork:
    """Return the networks of a matcher, which find ``most`` features at most.

    Raises ``Unavailable`` for weights that are missing, or are of another network.
    """
    module, _, name = matchers.NETWORKS[matcher].partition(":")
    made: FeatureNetwork | PairNetwork
    made = getattr(importlib.import_module(module), name)(getattr(settings, matcher), most)
    return made


def main() -> None:
    """Process the request in the file that the command line names."""
    request = msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=MatcherRequest)
    out = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # libraries' output must not count as finished parts
    with contextlib.suppress(BrokenPipeError):  # the job is gone
        process_request(request, lambda: out.write(b".\n"))


def process_request(request: MatcherRequest, done: Callable[[], object]) -> None:
    """Find and match as requested; ``done`` is called after each part."""
    import torch

    torch.set_num_threads(request.threads)
    torch.manual_seed(request.seed)
    torch.backends.cudnn.deterministic = True
    network = load(request.matcher, msgspec.convert(request.settings, Matchers), request.most)
    with torch.inference_mode():
        _run(request, network, done)


def _run(
    request: MatcherRequest, network: FeatureNetwork | PairNetwork, done: Callable[[], object]
) -> None:
    photos, output = Path(request.photos), Path(request.output)

    @functools.lru_cache(_CACHED_PHOTOS)
    def features(file: str) -> Features:
        return Features(*sparse.read(output / f"{file}.npz", *Features._fields))

    for file in request.files:
        found = cast(FeatureNetwork, network).find(load_for_network(photos / file, network.side))
        sparse.write(output / f"{file}.npz", **found._asdict())
        done()
    for pair in request.pairs:
        if network.of_pairs:
            sparse.write(output / pair.file, **_match_pair(network, photos, pair)._asdict())
        else:
            matches = network.match(features(pair.first), features(pair.second))
            sparse.write(output / pair.file, matches=matches)
        done()


def _match_pair(network: PairNetwork, photos: Path, pair: Pair) -> PairMatches:
    """Return the matches of a pair in pixels of the photographs' files."""
    one, two = (load_for_network(photos / file, network.side) for file in (pair.first, pair.second))
    found = network.match_pair(one, two)
    scales = [_scale(photos / file, seen) for file, seen in ((pair.first, one), (pair.second, two))]
    first, second = (
        np.asarray(xy * scale, np.float32) for xy, scale in zip(found[:2], scales, strict=True)
    )
    return PairMatches(first, second, found.score)


def load_for_network(path: Path, side: int) -> NDArray[np.uint8]:
    """Return a photograph as a network's input: RGB, uint8 ``[H, W, 3]``."""
    with Image.open(path) as picture:
        return measures.downscaled(np.asarray(picture.convert("RGB")), side)


def _scale(path: Path, seen: NDArray[np.uint8]) -> NDArray[np.float64]:
    with Image.open(path) as picture:
        return np.array(picture.size) / seen.shape[1::-1]


if __name__ == "__main__":
    main()
