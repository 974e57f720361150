"""What COLMAP's database holds, read through its own library."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from mataserver_reconstruct import pairing
from mataserver_reconstruct.graph import MIN_INLIERS, Graph, Pair
from mataserver_reconstruct.native import pycolmap

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    from mataserver_reconstruct.study import Study

Item = TypeVar("Item")
_LOOK_SECONDS = 0.5


def graph(study: Study) -> Graph:
    """Return the photographs with their verified pairs."""
    with pycolmap.Database.open(study.database) as opened:
        names = {image.image_id: image.name for image in opened.read_all_images()}
        keypoints = {name: opened.num_keypoints_for_image(at) for at, name in names.items()}
        pairs = []
        for both, geometry in zip(*opened.read_two_view_geometries(), strict=True):
            inliers = len(geometry.inlier_matches)
            if inliers >= MIN_INLIERS:
                first, second = (names[at] for at in pycolmap.pair_id_to_image_pair(both))
                motion = pycolmap.TwoViewGeometryConfiguration(geometry.config).name
                pairs.append(Pair(min(first, second), max(first, second), inliers, motion))
    return Graph(keypoints, sorted(pairs))


def verified(study: Study) -> int:
    """Return how many matches of all pairs were verified."""
    with pycolmap.Database.open(study.database) as opened:
        return int(opened.num_inlier_matches())


def ids(study: Study) -> dict[str, int]:
    """Return the numbers of the photographs by their files."""
    with pycolmap.Database.open(study.database) as opened:
        return {image.name: image.image_id for image in opened.read_all_images()}


@contextlib.contextmanager
def followed(
    study: Study,
    items: Sequence[Item],
    is_there: Callable[[Any, Item], bool],
    told: Callable[[int], None],
) -> Iterator[Callable[[], None]]:
    """Yield what tells how many of ``items``, in their order, a call has entered by now.

    COLMAP's calls tell nothing of themselves, and parting them costs: each builds the indices of
    its photographs anew, which made matching 40 % dearer. The database is opened before the call
    is, since opening it writes; who reads then keeps nobody from writing, as it has a log.
    """
    with pycolmap.Database.open(study.database) as opened:
        done, after = 0, 0.0

        def look() -> None:
            nonlocal done, after
            if time.monotonic() < after:
                return
            before = done
            while done < len(items) and is_there(opened, items[done]):
                done += 1
            if done > before:
                told(done)
            after = time.monotonic() + _LOOK_SECONDS

        yield look


def keypoints(study: Study, files: Iterable[str]) -> dict[str, NDArray[np.float32]]:
    """Return the keypoints of photographs by their files: pixels ``[n, 2]``."""
    with pycolmap.Database.open(study.database) as opened:
        ids = {image.name: image.image_id for image in opened.read_all_images()}
        return {file: _places(opened, ids[file]) for file in files if file in ids}


def glances(study: Study, files: Iterable[str]) -> list[NDArray[np.float32]]:
    """Return the descriptors of the largest features of photographs, as ``pairing`` takes them."""
    with pycolmap.Database.open(study.database) as opened:
        ids = {image.name: image.image_id for image in opened.read_all_images()}
        return [
            pairing.largest(
                np.asarray(opened.read_keypoints(ids[file]), np.float32),
                np.asarray(opened.read_descriptors(ids[file]).data, np.uint8),
            )
            for file in files
        ]


def matches(study: Study, first: str, second: str) -> NDArray[np.uint32]:
    """Return the matches of a pair, before they were verified: ``[m, 2]``."""
    with pycolmap.Database.open(study.database) as opened:
        one, two = (_image(opened, file).image_id for file in (first, second))
        if not opened.exists_matches(one, two):
            return np.empty((0, 2), np.uint32)
        return np.asarray(opened.read_matches(one, two), np.uint32).reshape(-1, 2)


def _image(opened: Any, file: str) -> Any:
    return opened.read_image_with_name(file)


def _places(opened: Any, number: int) -> NDArray[np.float32]:
    rows = np.asarray(opened.read_keypoints(number), np.float32)
    return rows[:, :2] if rows.size else np.empty((0, 2), np.float32)
