"""Shared cameras in COLMAP's database, and the pairs that are not verified yet."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mataserver_reconstruct.native import pycolmap

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mataserver_reconstruct.photos import Photo
    from mataserver_reconstruct.workspace import Workspace


def camera_groups(workspace: Workspace) -> Iterator[tuple[list[Photo], int | None]]:
    """Yield the photographs of each import call, with the camera that they share, or None.

    The first photograph of each camera is imported before, which creates the camera: whoever finds
    features does so for all of a camera in one call, in which no thread waits for the first one.
    """
    groups = workspace.cameras()
    import_photos(workspace, [group[0] for group in groups], None)
    if alone := [group[0] for group in groups if not group[1:]]:
        yield alone, None
    for group in groups:
        if group[1:]:
            yield group, _camera_of(workspace, group[0])


def import_photos(workspace: Workspace, photos: Sequence[Photo], camera: int | None) -> None:
    """Import photographs that are not in the database; with None each gets its own camera."""
    with pycolmap.Database.open(workspace.database) as database:
        names = [photo.file for photo in photos if not database.exists_image(photo.file)]
    if names:
        reader, mode = reader_options(camera)
        pycolmap.import_images(
            workspace.database,
            workspace.folder,
            camera_mode=mode,
            image_names=names,
            options=reader,
        )


def _camera_of(workspace: Workspace, photo: Photo) -> int:
    """Return the camera of a photograph that was imported."""
    with pycolmap.Database.open(workspace.database) as database:
        image: Any = database.read_image_with_name(photo.file)
        return int(image.camera_id)


def reader_options(camera: int | None) -> tuple[Any, Any]:
    """Return the options for reading photographs of a camera; with None, each has its own."""
    options, mode = pycolmap.ImageReaderOptions(), pycolmap.CameraMode.PER_IMAGE
    if camera is not None:  # PER_IMAGE would ignore it
        options.existing_camera_id, mode = camera, pycolmap.CameraMode.AUTO
    return options, mode


def unverified(workspace: Workspace, pairs: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return the pairs whose geometry is not in the database."""
    with pycolmap.Database.open(workspace.database) as database:
        ids = {image.name: image.image_id for image in database.read_all_images()}
        return [
            pair
            for pair in pairs
            if not database.exists_two_view_geometry(ids[pair[0]], ids[pair[1]])
        ]
