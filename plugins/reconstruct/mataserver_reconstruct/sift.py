"""The matcher ``sift``: COLMAP's own features, matches and geometric verification."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mataserver_reconstruct.native import pycolmap
from mataserver_reconstruct.photos import chunks

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mataserver_reconstruct.matchers import Progress
    from mataserver_reconstruct.photos import Photo
    from mataserver_reconstruct.study import Study

_PHOTOS, _PAIRS = 8, 24
"""How many a call takes: its end is when progress is told. Each call's beginning costs: calls of 4
photographs took 18 % more CPU than one of 16, of 8 it is 7 %."""


class Sift:
    """SIFT, as COLMAP does it on the CPU."""

    def extract(self, study: Study, progress: Progress) -> None:
        """Find the features of every photograph; those that are in the database stay."""
        done, total = 0, len(study.photos)
        for chunk, group in _calls(study):
            self._extract(study, chunk, _camera_of(study, group))
            done += len(chunk)
            progress(done, total, f"features of {done} of {total} photographs")

    def _extract(self, study: Study, chunk: list[Photo], camera: int | None) -> None:
        reader, mode = pycolmap.ImageReaderOptions(), pycolmap.CameraMode.PER_IMAGE
        if camera is not None:  # which PER_IMAGE would not heed
            reader.existing_camera_id, mode = camera, pycolmap.CameraMode.AUTO
        options = pycolmap.FeatureExtractionOptions()
        options.max_image_size = study.spec.max_size
        options.sift.max_num_features = study.spec.max_keypoints
        options.num_threads = study.threads
        study.native.call(
            pycolmap.extract_features,
            study.database,
            study.folder,
            image_names=[photo.file for photo in chunk],
            camera_mode=mode,
            reader_options=reader,
            extraction_options=options,
            device=pycolmap.Device.cpu,
        )

    def match(self, study: Study, pairs: Sequence[tuple[str, str]], progress: Progress) -> None:
        """Match and verify pairs; those that are in the database stay."""
        listed = study.work / "pairs.txt"
        left = _unmatched(study, pairs)
        done, total = len(pairs) - len(left), len(pairs)
        for chunk in chunks(left, _PAIRS):
            listed.write_text("".join(f"{first} {second}\n" for first, second in chunk))
            self._match(study, listed)
            done += len(chunk)
            progress(done, total, f"matches of {done} of {total} pairs of photographs")

    def _match(self, study: Study, listed: Any) -> None:
        matching = pycolmap.FeatureMatchingOptions()
        matching.num_threads = study.threads
        verification = pycolmap.TwoViewGeometryOptions()
        verification.ransac.random_seed = study.spec.seed
        pairing = pycolmap.ImportedPairingOptions()
        pairing.match_list_path = listed
        study.native.call(
            pycolmap.match_image_pairs,
            study.database,
            matching_options=matching,
            pairing_options=pairing,
            verification_options=verification,
            device=pycolmap.Device.cpu,
        )


def _calls(study: Study) -> Iterator[tuple[list[Photo], list[Photo]]]:
    """Yield the photographs of each call with all those of their camera.

    The first of a camera makes it; those that share theirs with none come together.
    """
    groups = study.cameras()
    for chunk in chunks([group[0] for group in groups], _PHOTOS):
        yield chunk, []
    for group in groups:
        for chunk in chunks(group[1:], _PHOTOS):
            yield chunk, group


def _camera_of(study: Study, group: list[Photo]) -> int | None:
    """Return the camera of a group's first photograph; None for no group."""
    if not group:
        return None
    with pycolmap.Database.open(study.database) as database:
        image: Any = database.read_image_with_name(group[0].file)
        return int(image.camera_id)


def _unmatched(study: Study, pairs: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    with pycolmap.Database.open(study.database) as database:
        ids = {image.name: image.image_id for image in database.read_all_images()}
        return [
            pair
            for pair in pairs
            if not database.exists_two_view_geometry(ids[pair[0]], ids[pair[1]])
        ]
