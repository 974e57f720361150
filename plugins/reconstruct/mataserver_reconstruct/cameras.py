"""Which photographs share a camera in COLMAP's database, and which of its pairs are verified."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mataserver_reconstruct.native import pycolmap

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mataserver_reconstruct.photos import Photo
    from mataserver_reconstruct.study import Study


def calls(study: Study) -> Iterator[tuple[list[Photo], list[Photo]]]:
    """Yield the photographs of each call with all those of their camera.

    The first of a camera makes it; those that share theirs with none come together.
    """
    groups = study.cameras()
    yield [group[0] for group in groups], []
    for group in groups:
        if group[1:]:
            yield group[1:], group


def of_group(study: Study, group: list[Photo]) -> int | None:
    """Return the camera of a group's first photograph; None for no group."""
    if not group:
        return None
    with pycolmap.Database.open(study.database) as database:
        image: Any = database.read_image_with_name(group[0].file)
        return int(image.camera_id)


def reader(camera: int | None) -> tuple[Any, Any]:
    """Return how photographs of a camera are read; of None, each has its own."""
    options, mode = pycolmap.ImageReaderOptions(), pycolmap.CameraMode.PER_IMAGE
    if camera is not None:  # which PER_IMAGE would not heed
        options.existing_camera_id, mode = camera, pycolmap.CameraMode.AUTO
    return options, mode


def unverified(study: Study, pairs: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return those of some pairs whose geometry is not in the database."""
    with pycolmap.Database.open(study.database) as database:
        ids = {image.name: image.image_id for image in database.read_all_images()}
        return [
            pair
            for pair in pairs
            if not database.exists_two_view_geometry(ids[pair[0]], ids[pair[1]])
        ]
