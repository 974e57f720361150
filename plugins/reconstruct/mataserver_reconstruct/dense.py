"""Matchers that take two photographs at once and have no features of their own.

Their matches of a pair are positions in both, and the same place in a photograph has a different
position in each of its pairs. So positions within one small cell are merged into one keypoint,
which all pairs share.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np

from mataserver import MataError
from mataserver_reconstruct import pairing, program, sparse, workspace
from mataserver_reconstruct.program import Pair
from mataserver_reconstruct.sparse import pair_file, read

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from mataserver_reconstruct.photos import Photo
    from mataserver_reconstruct.weights import Matchers
    from mataserver_reconstruct.workspace import Progress, Workspace

CELL = 1 / 640
"""Side of a cell, as a part of a photograph's longer side: a pixel at the networks' resolution."""


class DenseFinder:
    """A program that matches pairs, this plugin's or the operator's."""

    detects = False

    def __init__(self, name: str, settings: Matchers) -> None:
        self.name = name
        self._settings = settings
        own = getattr(settings, name)
        self._command = tuple(getattr(own, "command", sparse.COMMAND))

    def find(self, workspace: Workspace, progress: Progress) -> None:
        """Do nothing: there are no features before pairs are matched."""

    def match(
        self, workspace: Workspace, pairs: Sequence[tuple[str, str]], progress: Progress
    ) -> None:
        """Match pairs that are not matched yet; then merge their positions to keypoints."""
        folder = self._folder(workspace)
        named = [Pair(*pair, pair_file(*pair)) for pair in pairs]
        left = [each for each in named if not (folder / each.file).exists()]
        told = sparse.line_progress(len(named), len(left), "matches of {} of {} pairs", progress)
        if left:
            asked = sparse.matcher_request(workspace, self.name, self._settings, folder, pairs=left)
            program.run(workspace, self.name, self._command, asked, told)
        self._write_keypoints(workspace, named)

    def top_descriptors(
        self, workspace: Workspace, files: Sequence[str]
    ) -> list[NDArray[np.float32]]:
        """Return descriptors of SIFT: likely pairs must be known before any is matched."""
        finder = cv2.SIFT_create(pairing.TOP_FEATURES)  # type: ignore[attr-defined,unused-ignore]
        found = []
        for file in files:
            grey = cv2.imread(str(workspace.folder / file), cv2.IMREAD_GRAYSCALE)
            descriptors = finder.detectAndCompute(grey, None)[1]
            rows = np.empty((0, 128), np.float32) if descriptors is None else descriptors
            length = np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9)
            found.append(np.asarray(rows / length, np.float32)[: pairing.TOP_FEATURES])
        return found

    def keypoints(self, workspace: Workspace, file: str) -> NDArray[np.float32]:
        """Return a photograph's keypoints, ``[n, 2]``, as COLMAP counts pixels."""
        (xy,) = read(self._keypoints(workspace, file), "xy")
        return np.asarray(xy, np.float32).reshape(-1, 2)

    def matches(self, workspace: Workspace, first: str, second: str) -> NDArray[np.uint32]:
        """Return the matches of a pair: indices in the keypoints of both, ``[m, 2]``."""
        places, score = self._places(workspace, first, second)
        ids = [
            _keypoint_indices(
                places[side], _photo(workspace, file), self._keypoints(workspace, file)
            )
            for side, file in enumerate((first, second))
        ]
        both = np.stack(ids, 1)
        known = (both >= 0).all(axis=1)
        return _unique_matches(both[known], score[known])

    def _write_keypoints(self, workspace: Workspace, pairs: Sequence[Pair]) -> None:
        """Write the keypoints of every photograph."""
        of_file: dict[str, list[tuple[Pair, int]]] = {photo.file: [] for photo in workspace.photos}
        for pair in pairs:
            of_file[pair.first].append((pair, 0))
            of_file[pair.second].append((pair, 1))
        for file, seen in of_file.items():
            found = [self._places(workspace, pair.first, pair.second) for pair, _ in seen]
            xy = [places[side] for (places, _), (_, side) in zip(found, seen, strict=True)]
            score = [each for _, each in found]
            whole = np.concatenate([np.empty((0, 2), np.float32), *xy])
            sure = np.concatenate([np.empty(0, np.float32), *score])
            cells, centres = _merge_cells(
                whole, sure, _photo(workspace, file), workspace.spec.max_keypoints
            )
            sparse.write(self._keypoints(workspace, file), cells=cells, xy=centres)

    def _places(
        self, workspace: Workspace, first: str, second: str
    ) -> tuple[list[NDArray[np.float32]], NDArray[np.float32]]:
        """Return the positions of a pair's matches in both, ``[m, 2]`` each, and their scores.

        Raises ``MataError`` for invalid ones: the program may be the operator's own.
        """
        path = self._folder(workspace) / pair_file(first, second)
        one, two, score = (
            np.asarray(each, np.float32) for each in read(path, "first", "second", "score")
        )
        count = len(score)
        if one.shape != (count, 2) or two.shape != (count, 2) or score.shape != (count,):
            raise MataError(f"the matcher {self.name} wrote matches of another shape: {path.name}")
        inside = np.isfinite(score)
        for xy, file in ((one, first), (two, second)):
            photo = _photo(workspace, file)
            inside &= ((xy >= 0) & (xy <= (photo.width, photo.height))).all(axis=1)
        return [one[inside], two[inside]], score[inside]

    def _folder(self, made: Workspace) -> Path:
        return made.work / workspace.MATCHER_FOLDER / self.name

    def _keypoints(self, made: Workspace, file: str) -> Path:
        return self._folder(made) / f"{file}.keypoints.npz"


def _photo(workspace: Workspace, file: str) -> Photo:
    return next(each for each in workspace.photos if each.file == file)


def _cell_of(xy: NDArray[np.float32], photo: Photo) -> NDArray[np.int64]:
    """Return the index of each position's cell."""
    side = max(1.0, CELL * max(photo.width, photo.height))
    columns = int(photo.width / side) + 2
    place = np.floor(xy / side).astype(np.int64)
    return np.asarray(place[:, 1] * columns + place[:, 0], np.int64)


def _merge_cells(
    xy: NDArray[np.float32], score: NDArray[np.float32], photo: Photo, most: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return the kept cells, in order, and the keypoint of each.

    A keypoint is the mean of its positions, weighted by their scores. The cells in the most pairs
    are kept, of equal ones those with the highest scores.
    """
    cells, of_place = np.unique(_cell_of(xy, photo), return_inverse=True)
    weight = np.maximum(score.astype(np.float64), 1e-6)
    total = np.bincount(of_place, weight, len(cells))
    centres = np.stack(
        [np.bincount(of_place, weight * xy[:, axis], len(cells)) for axis in (0, 1)], 1
    )
    seen = np.bincount(of_place, minlength=len(cells))
    kept = np.sort(np.lexsort((-total, -seen))[:most])
    means = centres[kept] / np.maximum(total[kept, None], 1e-12)
    return cells[kept], np.asarray(means, np.float32)


def _keypoint_indices(xy: NDArray[np.float32], photo: Photo, path: Path) -> NDArray[np.int64]:
    """Return the keypoint of each position; -1 where its cell was not kept."""
    (cells,) = read(path, "cells")
    wanted = _cell_of(xy, photo)
    if not len(cells):
        return np.full(len(wanted), -1)
    at = np.minimum(np.searchsorted(cells, wanted), len(cells) - 1)
    return np.where(cells[at] == wanted, at, -1)


def _unique_matches(both: NDArray[np.int64], score: NDArray[np.float32]) -> NDArray[np.uint32]:
    """Return matches in which every keypoint occurs once, in its best match."""
    ordered = both[np.argsort(-score, kind="stable")]
    for side in (0, 1):
        _, first = np.unique(ordered[:, side], return_index=True)
        ordered = ordered[np.sort(first)]
    return np.asarray(ordered, np.uint32).reshape(-1, 2)
