"""Which photographs share a camera, and how they reach COLMAP."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from mataserver_reconstruct import cameras, photos, spec
from mataserver_reconstruct.local import LocalJob
from mataserver_reconstruct.native import Native, pycolmap
from mataserver_reconstruct.sift import Sift
from mataserver_reconstruct.weights import Matchers
from mataserver_reconstruct.workspace import Workspace


class Watched(Native):
    """Notes the photographs of each call."""

    def __init__(self, job):
        super().__init__(job)
        self.calls = []

    def call(self, function, *arguments, **named):
        """Note it, and call."""
        self.calls.append(named["image_names"])
        return super().call(function, *arguments, **named)


@pytest.fixture
def workspace(tmp_path):
    """Five photographs: a, c and e by one camera, b and d by one each."""
    folder, rng = tmp_path / "photos", np.random.default_rng(0)
    folder.mkdir()
    for name, focal in zip("abcde", (28, 35, 28, 50, 28), strict=True):
        exif = Image.Exif()
        exif.get_ifd(0x8769)[0xA405] = focal
        picture = Image.fromarray(rng.integers(0, 256, (24, 32, 3)).astype(np.uint8))
        picture.resize((320, 240)).save(folder / f"{name}.jpg", exif=exif)
    job = LocalJob(tmp_path / "out", folder, {})
    asked = spec.read({"max_keypoints": 128})
    return Workspace(job.work, photos.prepare(job, asked), asked, Watched(job), Matchers())


def in_database(workspace):
    """Return the number of the camera of each photograph that is in the database."""
    with pycolmap.Database.open(workspace.database) as opened:
        return {image.name: image.camera_id for image in opened.read_all_images()}


def test_the_photographs_of_a_camera_come_together(workspace):
    """None is looked at before the others: one thread would do so, and the others wait."""
    told = []
    Sift().extract(workspace, lambda done, *_: told.append(done))
    assert workspace.native.calls == [
        ["00001.jpg", "00003.jpg"],
        ["00000.jpg", "00002.jpg", "00004.jpg"],
    ]
    found = in_database(workspace)
    a, b, c, d, e = (found[photo.file] for photo in workspace.photos)
    assert a == c == e
    assert len({a, b, d}) == 3
    assert told == sorted(told)
    assert told[-1] == 5


def test_what_was_imported_before_goes_on(workspace):
    """An attempt that was killed has photographs in the database, with and without features."""
    for chunk, camera in cameras.camera_groups(workspace):
        cameras.import_photos(workspace, chunk[:2], camera)
    before = in_database(workspace)
    Sift().extract(workspace, lambda *_: None)
    with pycolmap.Database.open(workspace.database) as opened:
        found = opened.read_all_images()
        assert all(opened.num_keypoints_for_image(image.image_id) for image in found)
    assert {image.name: image.camera_id for image in found}.items() >= before.items()
    assert len(found) == 5
