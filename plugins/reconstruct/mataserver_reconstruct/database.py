"""Reads COLMAP's database, through its own library."""

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

    from mataserver_reconstruct.workspace import Workspace

Item = TypeVar("Item")
_POLL_SECONDS = 0.5


def graph(workspace: Workspace) -> Graph:
    """Return the photographs with their verified pairs."""
    with pycolmap.Database.open(workspace.database) as opened:
        own = {photo.file for photo in workspace.photos}  # an older version read copies, too
        images = (image for image in opened.read_all_images() if image.name in own)
        names = {image.image_id: image.name for image in images}
        keypoints = {name: opened.num_keypoints_for_image(at) for at, name in names.items()}
        pairs = []
        for both, geometry in zip(*opened.read_two_view_geometries(), strict=True):
            inliers = len(geometry.inlier_matches)
            ends = pycolmap.pair_id_to_image_pair(both)
            if inliers >= MIN_INLIERS and names.keys() >= set(ends):
                first, second = (names[at] for at in ends)
                motion = pycolmap.TwoViewGeometryConfiguration(geometry.config).name
                pairs.append(Pair(min(first, second), max(first, second), inliers, motion))
    return Graph(keypoints, sorted(pairs))


def verified(workspace: Workspace) -> int:
    """Return the number of verified matches of all pairs."""
    with pycolmap.Database.open(workspace.database) as opened:
        return int(opened.num_inlier_matches())


def ids(workspace: Workspace) -> dict[str, int]:
    """Return the ids of the photographs by their files."""
    with pycolmap.Database.open(workspace.database) as opened:
        return {image.name: image.image_id for image in opened.read_all_images()}


@contextlib.contextmanager
def track_progress(
    workspace: Workspace,
    items: Sequence[Item],
    is_there: Callable[[Any, Item], bool],
    told: Callable[[int], None],
) -> Iterator[Callable[[], None]]:
    """Yield a function that reports how many of ``items``, in order, a call has stored by now.

    COLMAP's calls report no progress, and splitting them is expensive: each builds the indices of
    its photographs anew, which made matching 40 % slower. The database is opened before the call,
    because opening it writes; afterwards readers do not block the writer, as it has a write-ahead
    log.
    """
    with pycolmap.Database.open(workspace.database) as opened:
        done, after = 0, 0.0

        def poll() -> None:
            nonlocal done, after
            if time.monotonic() < after:
                return
            before = done
            while done < len(items) and is_there(opened, items[done]):
                done += 1
            if done > before:
                told(done)
            after = time.monotonic() + _POLL_SECONDS

        yield poll


def keypoints(workspace: Workspace, files: Iterable[str]) -> dict[str, NDArray[np.float32]]:
    """Return the keypoints of photographs by their files: pixels ``[n, 2]``."""
    with pycolmap.Database.open(workspace.database) as opened:
        ids = {image.name: image.image_id for image in opened.read_all_images()}
        return {file: _positions(opened, ids[file]) for file in files if file in ids}


def top_descriptors(workspace: Workspace, files: Iterable[str]) -> list[NDArray[np.float32]]:
    """Return the descriptors of the largest features of photographs, as ``pairing`` takes them."""
    with pycolmap.Database.open(workspace.database) as opened:
        ids = {image.name: image.image_id for image in opened.read_all_images()}
        return [
            pairing.largest(
                np.asarray(opened.read_keypoints(ids[file]), np.float32),
                np.asarray(opened.read_descriptors(ids[file]).data, np.uint8),
            )
            for file in files
        ]


def matches(workspace: Workspace, first: str, second: str) -> NDArray[np.uint32]:
    """Return the matches of a pair before verification: ``[m, 2]``."""
    with pycolmap.Database.open(workspace.database) as opened:
        one, two = (_image(opened, file).image_id for file in (first, second))
        if not opened.exists_matches(one, two):
            return np.empty((0, 2), np.uint32)
        return np.asarray(opened.read_matches(one, two), np.uint32).reshape(-1, 2)


def _image(opened: Any, file: str) -> Any:
    return opened.read_image_with_name(file)


def _positions(opened: Any, number: int) -> NDArray[np.float32]:
    rows = np.asarray(opened.read_keypoints(number), np.float32)
    return rows[:, :2] if rows.size else np.empty((0, 2), np.float32)
