"""Imports features and matches of other programs into COLMAP's database, and verifies them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np

from mataserver_reconstruct import cameras
from mataserver_reconstruct.native import pycolmap
from mataserver_reconstruct.photos import chunks

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from mataserver_reconstruct.workspace import Progress, Workspace

_PAIRS = 24
"""Pairs that one call verifies: progress is reported after each."""
_VERIFYING = 0.1  # share of the matching's progress


class Finder(Protocol):
    """Finds features and matches, and stores them in the workspace's folder.

    Both steps continue an earlier attempt. ``detects``: whether the first step finds anything.
    """

    detects: bool

    def find(self, workspace: Workspace, progress: Progress) -> None:
        """Find the features of every photograph, if it has separate features."""

    def top_descriptors(
        self, workspace: Workspace, files: Sequence[str]
    ) -> list[NDArray[np.float32]]:
        """Return the descriptors of each photograph's strongest features."""

    def match(
        self, workspace: Workspace, pairs: Sequence[tuple[str, str]], progress: Progress
    ) -> None:
        """Match pairs of photographs. Afterwards, keypoints and matches are available."""

    def keypoints(self, workspace: Workspace, file: str) -> NDArray[np.float32]:
        """Return a photograph's keypoints, ``[n, 2]``, as COLMAP counts pixels."""

    def matches(self, workspace: Workspace, first: str, second: str) -> NDArray[np.uint32]:
        """Return the matches of a pair: indices in the keypoints of both, ``[m, 2]``."""


class ImportedMatcher:
    """The matcher of one finder, or of several whose features are concatenated."""

    def __init__(self, finders: Sequence[Finder]) -> None:
        self._finders = finders
        self.detects = any(finder.detects for finder in finders)

    def extract(self, workspace: Workspace, progress: Progress) -> None:
        """Import the photographs with their cameras, and find their features."""
        for chunk, camera in cameras.camera_groups(workspace):
            cameras.import_photos(workspace, chunk, camera)
        for number, finder in enumerate(self._finders):
            finder.find(workspace, _sub_progress(progress, number, len(self._finders), 1.0))

    def top_descriptors(
        self, workspace: Workspace, files: Sequence[str]
    ) -> list[NDArray[np.float32]]:
        """Return the descriptors of each photograph's strongest features."""
        return self._finders[0].top_descriptors(workspace, files)

    def match(
        self, workspace: Workspace, pairs: Sequence[tuple[str, str]], progress: Progress
    ) -> None:
        """Match pairs with every finder, and verify all matches that are not verified yet."""
        for number, finder in enumerate(self._finders):
            told = _sub_progress(progress, number, len(self._finders), 1.0 - _VERIFYING)
            finder.match(workspace, pairs, told)
        begins = self._write_keypoints(workspace)
        left = cameras.unverified(workspace, pairs)
        done, total = len(pairs) - len(left), len(pairs)
        for chunk in chunks(left, _PAIRS):
            self._verify(workspace, chunk, begins)
            done += len(chunk)
            part = 1.0 - _VERIFYING + _VERIFYING * done / total
            progress(part, 1.0, f"geometry of {done} of {total} pairs of photographs")

    def _write_keypoints(self, workspace: Workspace) -> dict[str, NDArray[np.int64]]:
        """Write every photograph's keypoints; return the offset of each finder's."""
        begins = {}
        with pycolmap.Database.open(workspace.database) as database:
            ids = {image.name: image.image_id for image in database.read_all_images()}
            for photo in workspace.photos:
                found = [finder.keypoints(workspace, photo.file) for finder in self._finders]
                begins[photo.file] = np.cumsum([0, *map(len, found)])[:-1]
                if not database.exists_keypoints(ids[photo.file]):
                    database.write_keypoints(ids[photo.file], np.concatenate(found))
        return begins

    def _verify(
        self,
        workspace: Workspace,
        pairs: Sequence[tuple[str, str]],
        begins: dict[str, NDArray[np.int64]],
    ) -> None:
        with pycolmap.Database.open(workspace.database) as database:
            ids = {image.name: image.image_id for image in database.read_all_images()}
            for first, second in pairs:
                if not database.exists_matches(ids[first], ids[second]):
                    matches = self._matches(workspace, first, second, begins)
                    database.write_matches(ids[first], ids[second], matches)
        listed = workspace.work / "pairs.txt"
        listed.write_text("".join(f"{first} {second}\n" for first, second in pairs))
        options = pycolmap.TwoViewGeometryOptions()
        options.ransac.random_seed = workspace.spec.seed
        workspace.native.call(pycolmap.verify_matches, workspace.database, listed, options=options)

    def _matches(
        self, workspace: Workspace, first: str, second: str, begins: dict[str, NDArray[np.int64]]
    ) -> NDArray[np.uint32]:
        found = [
            finder.matches(workspace, first, second) + np.stack([one, two]).astype(np.uint32)
            for finder, one, two in zip(self._finders, begins[first], begins[second], strict=True)
        ]
        return np.concatenate(found)


def _sub_progress(progress: Progress, number: int, count: int, share: float) -> Progress:
    """Return the progress of one of several consecutive steps."""

    def told(done: float, total: float, message: str) -> None:
        part = done / total if total else 1.0
        progress(share * (number + part) / count, 1.0, message)

    return told
