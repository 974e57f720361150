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

    from mataserver_reconstruct.weights import Matchers
    from mataserver_reconstruct.workspace import Progress, Workspace


_PAIRS = 48
"""Pairs after which a cancellation is noticed; with COLMAP's 1225 a job took a minute to stop."""


class Sift:
    """COLMAP's SIFT on the CPU."""

    detects = True

    def extract(self, workspace: Workspace, progress: Progress) -> None:
        """Find the features of the photographs that are not in the database yet."""
        done, total = 0, len(workspace.photos)

        def told(count: int) -> None:
            progress(done + count, total, f"features of {done + count} of {total} photographs")

        for chunk, camera in cameras.camera_groups(workspace):
            names = [photo.file for photo in chunk]
            with database.track_progress(workspace, names, _has_features, told) as poll:
                self._extract(workspace, names, camera, poll)
            told(len(chunk))
            done += len(chunk)

    def _extract(
        self, workspace: Workspace, names: list[str], camera: int | None, poll: Callable[[], None]
    ) -> None:
        reader, mode = cameras.reader_options(camera)
        options = pycolmap.FeatureExtractionOptions()
        options.max_image_size = workspace.spec.max_size
        options.sift.max_num_features = workspace.spec.max_keypoints
        options.num_threads = workspace.threads
        workspace.native.call(
            pycolmap.extract_features,
            workspace.database,
            workspace.folder,
            poll=poll,
            image_names=names,
            camera_mode=mode,
            reader_options=reader,
            extraction_options=options,
            device=pycolmap.Device.cpu,
        )

    def top_descriptors(
        self, workspace: Workspace, files: Sequence[str]
    ) -> list[NDArray[np.float32]]:
        """Return the descriptors of each photograph's largest features."""
        return database.top_descriptors(workspace, files)

    def match(
        self, workspace: Workspace, pairs: Sequence[tuple[str, str]], progress: Progress
    ) -> None:
        """Match and verify the pairs that are not in the database yet."""
        listed = workspace.work / "pairs.txt"
        left = cameras.unverified(workspace, pairs)
        before, total = len(pairs) - len(left), len(pairs)

        def told(count: int) -> None:
            done = before + count
            progress(done, total, f"matches of {done} of {total} pairs of photographs")

        if not left:
            return
        told(0)
        listed.write_text("".join(f"{first} {second}\n" for first, second in left))
        ids = database.ids(workspace)
        numbers = [(ids[first], ids[second]) for first, second in left]
        with database.track_progress(workspace, numbers, _has_pair, told) as poll:
            self._match(workspace, listed, poll)
        told(len(left))

    def _match(self, workspace: Workspace, listed: Path, poll: Callable[[], None]) -> None:
        matching = pycolmap.FeatureMatchingOptions()
        matching.num_threads = workspace.threads
        verification = pycolmap.TwoViewGeometryOptions()
        verification.ransac.random_seed = workspace.spec.seed
        pairing = pycolmap.ImportedPairingOptions()
        pairing.match_list_path = listed
        pairing.block_size = _PAIRS
        workspace.native.call(
            pycolmap.match_image_pairs,
            workspace.database,
            poll=poll,
            matching_options=matching,
            pairing_options=pairing,
            verification_options=verification,
            device=pycolmap.Device.cpu,
        )


def _has_features(opened: Any, name: str) -> bool:
    if not opened.exists_image(name):
        return False
    return bool(opened.exists_descriptors(opened.read_image_with_name(name).image_id))


def _has_pair(opened: Any, ids: tuple[int, int]) -> bool:
    return bool(opened.exists_two_view_geometry(*ids))


class SiftFinder:
    """SIFT as a part of a fusion, in a separate database."""

    detects = True

    def __init__(self, name: str, _settings: Matchers) -> None:
        self._name = name
        self._sift = Sift()

    def find(self, workspace: Workspace, progress: Progress) -> None:
        """Find the features of every photograph."""
        self._sift.extract(self._own_workspace(workspace), progress)

    def top_descriptors(
        self, workspace: Workspace, files: Sequence[str]
    ) -> list[NDArray[np.float32]]:
        """Return the descriptors of each photograph's largest features."""
        return self._sift.top_descriptors(self._own_workspace(workspace), files)

    def match(
        self, workspace: Workspace, pairs: Sequence[tuple[str, str]], progress: Progress
    ) -> None:
        """Match pairs of photographs."""
        self._sift.match(self._own_workspace(workspace), pairs, progress)

    def keypoints(self, workspace: Workspace, file: str) -> NDArray[np.float32]:
        """Return a photograph's keypoints, ``[n, 2]``, as COLMAP counts pixels."""
        return database.keypoints(self._own_workspace(workspace), [file])[file]

    def matches(self, workspace: Workspace, first: str, second: str) -> NDArray[np.uint32]:
        """Return the matches of a pair: indices in the keypoints of both, ``[m, 2]``."""
        return database.matches(self._own_workspace(workspace), first, second)

    def _own_workspace(self, workspace: Workspace) -> Workspace:
        return replace(workspace, name=self._name)
