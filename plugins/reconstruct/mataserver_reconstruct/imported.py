"""Features and matches that others find, brought into COLMAP's database and verified there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np

from mataserver_reconstruct import cameras
from mataserver_reconstruct.native import pycolmap
from mataserver_reconstruct.photos import chunks

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from mataserver_reconstruct.photos import Photo
    from mataserver_reconstruct.study import Progress, Study

_PAIRS = 24
"""Pairs that are verified by one call: its end is when progress is told."""
_VERIFYING = 0.1  # of the matching


class Finder(Protocol):
    """Finds features and matches, and keeps them in the study's folder.

    Both steps go on where an earlier attempt ended. ``detects``: whether the first finds anything.
    """

    detects: bool

    def find(self, study: Study, progress: Progress) -> None:
        """Find the features of every photograph, where it has such."""

    def glances(self, study: Study, files: Sequence[str]) -> list[NDArray[np.float32]]:
        """Return the descriptors of each photograph's foremost features."""

    def match(self, study: Study, pairs: Sequence[tuple[str, str]], progress: Progress) -> None:
        """Match pairs of photographs. After it, keypoints and matches are there."""

    def keypoints(self, study: Study, file: str) -> NDArray[np.float32]:
        """Return a photograph's keypoints, ``[n, 2]``, as COLMAP counts pixels."""

    def matches(self, study: Study, first: str, second: str) -> NDArray[np.uint32]:
        """Return the matches of a pair: places in the keypoints of both, ``[m, 2]``."""


class Imported:
    """The matcher of one finder, or of several whose features stand beside each other."""

    def __init__(self, finders: Sequence[Finder]) -> None:
        self._finders = finders
        self.detects = any(finder.detects for finder in finders)

    def extract(self, study: Study, progress: Progress) -> None:
        """Enter the photographs with their cameras, and find their features."""
        for chunk, group in cameras.calls(study):
            _enter(study, chunk, cameras.of_group(study, group))
        for number, finder in enumerate(self._finders):
            finder.find(study, _part(progress, number, len(self._finders), 1.0))

    def glances(self, study: Study, files: Sequence[str]) -> list[NDArray[np.float32]]:
        """Return the descriptors of each photograph's foremost features."""
        return self._finders[0].glances(study, files)

    def match(self, study: Study, pairs: Sequence[tuple[str, str]], progress: Progress) -> None:
        """Match pairs by every finder, and verify all that they found; what is verified stays."""
        for number, finder in enumerate(self._finders):
            told = _part(progress, number, len(self._finders), 1.0 - _VERIFYING)
            finder.match(study, pairs, told)
        begins = self._write_keypoints(study)
        left = cameras.unverified(study, pairs)
        done, total = len(pairs) - len(left), len(pairs)
        for chunk in chunks(left, _PAIRS):
            self._verify(study, chunk, begins)
            done += len(chunk)
            part = 1.0 - _VERIFYING + _VERIFYING * done / total
            progress(part, 1.0, f"geometry of {done} of {total} pairs of photographs")

    def _write_keypoints(self, study: Study) -> dict[str, NDArray[np.int64]]:
        """Write every photograph's keypoints; return where those of each finder begin."""
        begins = {}
        with pycolmap.Database.open(study.database) as database:
            ids = {image.name: image.image_id for image in database.read_all_images()}
            for photo in study.photos:
                found = [finder.keypoints(study, photo.file) for finder in self._finders]
                begins[photo.file] = np.cumsum([0, *map(len, found)])[:-1]
                if not database.exists_keypoints(ids[photo.file]):
                    database.write_keypoints(ids[photo.file], np.concatenate(found))
        return begins

    def _verify(
        self,
        study: Study,
        pairs: Sequence[tuple[str, str]],
        begins: dict[str, NDArray[np.int64]],
    ) -> None:
        with pycolmap.Database.open(study.database) as database:
            ids = {image.name: image.image_id for image in database.read_all_images()}
            for first, second in pairs:
                if not database.exists_matches(ids[first], ids[second]):
                    matches = self._matches(study, first, second, begins)
                    database.write_matches(ids[first], ids[second], matches)
        listed = study.work / "pairs.txt"
        listed.write_text("".join(f"{first} {second}\n" for first, second in pairs))
        options = pycolmap.TwoViewGeometryOptions()
        options.ransac.random_seed = study.spec.seed
        study.native.call(pycolmap.verify_matches, study.database, listed, options=options)

    def _matches(
        self, study: Study, first: str, second: str, begins: dict[str, NDArray[np.int64]]
    ) -> NDArray[np.uint32]:
        found = [
            finder.matches(study, first, second) + np.stack([one, two]).astype(np.uint32)
            for finder, one, two in zip(self._finders, begins[first], begins[second], strict=True)
        ]
        return np.concatenate(found)


def _enter(study: Study, chunk: list[Photo], camera: int | None) -> None:
    """Enter photographs that share a camera, or have one each, into the database."""
    reader, mode = cameras.reader(camera)
    with pycolmap.Database.open(study.database) as database:
        names = [photo.file for photo in chunk if not database.exists_image(photo.file)]
    if names:
        pycolmap.import_images(
            study.database, study.folder, camera_mode=mode, image_names=names, options=reader
        )


def _part(progress: Progress, number: int, count: int, share: float) -> Progress:
    """Return the progress of one of several steps that follow each other."""

    def told(done: float, total: float, message: str) -> None:
        part = done / total if total else 1.0
        progress(share * (number + part) / count, 1.0, message)

    return told
