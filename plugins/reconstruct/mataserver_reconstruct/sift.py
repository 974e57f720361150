"""The matcher ``sift``: COLMAP's own features, matches and geometric verification."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from mataserver_reconstruct import cameras, database
from mataserver_reconstruct.native import pycolmap

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from mataserver_reconstruct.study import Progress, Study
    from mataserver_reconstruct.weights import Matchers


class Sift:
    """SIFT, as COLMAP does it on the CPU."""

    detects = True

    def extract(self, study: Study, progress: Progress) -> None:
        """Find the features of every photograph; those that are in the database stay."""
        done, total = 0, len(study.photos)

        def told(count: int) -> None:
            progress(done + count, total, f"features of {done + count} of {total} photographs")

        for chunk, group in cameras.calls(study):
            names = [photo.file for photo in chunk]
            camera = cameras.of_group(study, group)
            with database.followed(study, names, _has_image, told) as look:
                self._extract(study, names, camera, look)
            told(len(chunk))
            done += len(chunk)

    def _extract(
        self, study: Study, names: list[str], camera: int | None, look: Callable[[], None]
    ) -> None:
        reader, mode = cameras.reader(camera)
        options = pycolmap.FeatureExtractionOptions()
        options.max_image_size = study.spec.max_size
        options.sift.max_num_features = study.spec.max_keypoints
        options.num_threads = study.threads
        study.native.call(
            pycolmap.extract_features,
            study.database,
            study.folder,
            beside=look,
            image_names=names,
            camera_mode=mode,
            reader_options=reader,
            extraction_options=options,
            device=pycolmap.Device.cpu,
        )

    def glances(self, study: Study, files: Sequence[str]) -> list[NDArray[np.float32]]:
        """Return the descriptors of each photograph's largest features."""
        return database.glances(study, files)

    def match(self, study: Study, pairs: Sequence[tuple[str, str]], progress: Progress) -> None:
        """Match and verify pairs; those that are in the database stay."""
        listed = study.work / "pairs.txt"
        left = cameras.unverified(study, pairs)
        before, total = len(pairs) - len(left), len(pairs)

        def told(count: int) -> None:
            done = before + count
            progress(done, total, f"matches of {done} of {total} pairs of photographs")

        if not left:
            return
        told(0)
        listed.write_text("".join(f"{first} {second}\n" for first, second in left))
        ids = database.ids(study)
        numbers = [(ids[first], ids[second]) for first, second in left]
        with database.followed(study, numbers, _has_pair, told) as look:
            self._match(study, listed, look)
        told(len(left))

    def _match(self, study: Study, listed: Path, look: Callable[[], None]) -> None:
        matching = pycolmap.FeatureMatchingOptions()
        matching.num_threads = study.threads
        verification = pycolmap.TwoViewGeometryOptions()
        verification.ransac.random_seed = study.spec.seed
        pairing = pycolmap.ImportedPairingOptions()
        pairing.match_list_path = listed
        study.native.call(
            pycolmap.match_image_pairs,
            study.database,
            beside=look,
            matching_options=matching,
            pairing_options=pairing,
            verification_options=verification,
            device=pycolmap.Device.cpu,
        )


def _has_image(opened: Any, name: str) -> bool:
    return bool(opened.exists_image(name))


def _has_pair(opened: Any, ids: tuple[int, int]) -> bool:
    return bool(opened.exists_two_view_geometry(*ids))


class SiftFinder:
    """SIFT as a part of a fusion, in a database of its own."""

    detects = True

    def __init__(self, name: str, _settings: Matchers) -> None:
        self._name = name
        self._sift = Sift()

    def find(self, study: Study, progress: Progress) -> None:
        """Find the features of every photograph."""
        self._sift.extract(self._own(study), progress)

    def glances(self, study: Study, files: Sequence[str]) -> list[NDArray[np.float32]]:
        """Return the descriptors of each photograph's largest features."""
        return self._sift.glances(self._own(study), files)

    def match(self, study: Study, pairs: Sequence[tuple[str, str]], progress: Progress) -> None:
        """Match pairs of photographs."""
        self._sift.match(self._own(study), pairs, progress)

    def keypoints(self, study: Study, file: str) -> NDArray[np.float32]:
        """Return a photograph's keypoints, ``[n, 2]``, as COLMAP counts pixels."""
        return database.keypoints(self._own(study), [file])[file]

    def matches(self, study: Study, first: str, second: str) -> NDArray[np.uint32]:
        """Return the matches of a pair: places in the keypoints of both, ``[m, 2]``."""
        return database.matches(self._own(study), first, second)

    def _own(self, study: Study) -> Study:
        return replace(study, name=self._name)
