"""Shared cameras in COLMAP's database, and the pairs that are not verified yet."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mataserver_reconstruct.native import pycolmap

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mataserver_reconstruct.photos import Photo
    from mataserver_reconstruct.workspace import Workspace


def camera_groups(workspace: Workspace) -> Iterator[tuple[list[Photo], list[Photo]]]:
    """Yield the photographs of each import call, with all those of their camera.

    The first photograph of a camera creates it; the first ones of all cameras come together.
    """
    groups = workspace.cameras()
    yield [group[0] for group in groups], []
    for group in groups:
        if group[1:]:
            yield group[1:], group


def camera_of(workspace: Workspace, group: list[Photo]) -> int | None:
    """Return the camera of a group's first photograph; None for an empty group."""
    if not group:
        return None
    with pycolmap.Database.open(workspace.database) as database:
        image: Any = database.read_image_with_name(group[0].file)
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
