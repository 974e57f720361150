"""Videos are shown as their display matrix says: eight ways, as EXIF's orientations are."""

from __future__ import annotations

import gc
import io
from fractions import Fraction

import av
import numpy as np
import psutil
import pytest
from PIL import Image, ImageOps

import mataserver
from camera_peers import film, serving, snapshot
from mataserver.media import decode
from mataserver.media.orientation import turned

WIDTH, HEIGHT = 96, 64
ONE = 65536
MATRICES = {
    1: (1, 0, 0, 1),
    2: (-1, 0, 0, 1),
    3: (-1, 0, 0, -1),
    4: (1, 0, 0, -1),
    5: (0, 1, 1, 0),
    6: (0, 1, -1, 0),
    7: (0, -1, -1, 0),
    8: (0, -1, 1, 0),
}
"""EXIF's orientations as ``a b c d`` of a display matrix."""


def matrix(a, b, c, d):
    """Return the nine numbers of a matrix, as a container holds them."""
    return [a * ONE, b * ONE, 0, c * ONE, d * ONE, 0, 0, 0, 1 << 30]


def stored():
    """Return a picture no two of whose eight orientations look alike."""
    picture = np.full((HEIGHT, WIDTH, 3), 128, np.uint8)
    picture[:32, :48] = (255, 0, 0)
    picture[32:, :48] = (0, 255, 0)
    picture[:32, 48:] = (0, 0, 255)
    return picture


def jpeg(orientation):
    """Return the picture as a JPEG that says in EXIF how it is to be shown."""
    exif, buffer = Image.Exif(), io.BytesIO()
    exif[0x0112] = orientation
    Image.fromarray(stored()).save(buffer, "JPEG", quality=95, exif=exif)
    return buffer.getvalue()


def shown(orientation):
    """Return the picture as Pillow shows that JPEG."""
    with Image.open(io.BytesIO(jpeg(orientation))) as picture:
        return np.asarray(ImageOps.exif_transpose(picture).convert("RGB"))


def close(found, expected):
    """Whether two pictures are the same but for what codecs change."""
    if found.shape != expected.shape:
        return False
    return np.abs(found.astype(int) - expected.astype(int)).mean() < 12


def film_of(path, orientation):
    """Write a video of the picture with that orientation's display matrix."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.set_display_matrix(matrix(*MATRICES[orientation]))
        for _ in range(3):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(stored())))
        container.mux(stream.encode(None))
    return path


def film_of_jpegs(path, orientation):
    """Write a video whose frames are JPEGs with that orientation in their EXIF."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=25)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuvj420p"
        packet = av.Packet(jpeg(orientation))
        packet.pts = packet.dts = 0
        packet.time_base, packet.stream, packet.is_keyframe = Fraction(1, 25), stream, True
        container.mux(packet)
    return path


def first(path):
    """Return the first frame of a video."""
    with av.open(str(path)) as container:
        return next(container.decode(video=0))


@pytest.mark.parametrize("orientation", MATRICES)
def test_a_camera_shows_every_orientation(tmp_path, orientation):
    """A mirrored or turned frame is sent to the model as players show it."""
    frame = first(film_of(tmp_path / "a.mp4", orientation))
    assert close(decode(mataserver.encode_frame(frame), 1 << 20), shown(orientation))


@pytest.mark.parametrize("orientation", MATRICES)
def test_jpegs_with_exif_in_a_video(tmp_path, orientation):
    """EXIF in a camera's JPEGs, side data that PyAV has no name for, is obeyed as well."""
    frame = first(film_of_jpegs(tmp_path / "a.mkv", orientation))
    assert close(mataserver.upright_frame(frame), shown(orientation))


@pytest.mark.parametrize("orientation", [2, 5, 7])
async def test_the_snapshot_of_a_mirrored_video(data_dir, tmp_path, orientation):
    """A session's picture, and so what its model sees, is mirrored and transposed."""
    path = film_of(tmp_path / "a.mp4", orientation)
    async with serving(data_dir, camera_paths=[str(path)]) as http:
        pixels, _ = await snapshot(http, await film(http, path, model="fake-ocr"))
    expected = shown(orientation)
    assert pixels.shape == expected.shape
    corners = np.s_[8:-8:8, 8:-8:8]
    assert np.median(np.abs(pixels[corners] - expected[corners].astype(int))) < 12


def test_a_frame_is_contiguous(tmp_path):
    """Whatever was turned, the pixels lie as models want them."""
    found = mataserver.upright_frame(first(film_of(tmp_path / "a.mp4", 7)))
    assert (found.dtype, found.shape) == (np.uint8, (WIDTH, HEIGHT, 3))
    assert found.flags.c_contiguous


def test_a_frame_is_converted_without_threads():
    """PyAV 17 starts one a core for each frame, which live as long as it does."""
    frame = av.VideoFrame(1920, 1080, "yuv420p")
    before = psutil.Process().num_threads()
    mataserver.upright_frame(frame)
    assert psutil.Process().num_threads() <= before


@pytest.mark.parametrize("write", [film_of, film_of_jpegs])
def test_a_frame_is_gone_with_its_last_name(tmp_path, write):
    """Frames, megabytes each, do not wait for a garbage collection once they were turned."""
    frame = first(write(tmp_path / "a.mkv", 5))
    gc.collect()
    gc.disable()
    try:
        mataserver.upright_frame(frame)
        del frame
        # By type alone: to ask an object for its class may run code of whatever was imported.
        assert not [each for each in gc.get_objects() if type(each) is av.VideoFrame]
    finally:
        gc.enable()


@pytest.mark.parametrize(
    ("numbers", "orientation"),
    [
        ([], 1),
        ([0] * 9, 1),
        ([ONE, ONE, 0, ONE, ONE, 0, 0, 0, 1 << 30], 1),
        ([ONE // 3, 0, 0, 0, -ONE // 3, 0, 0, 0, 1 << 30], 4),
        ([62_000, 21_000, 0, -21_000, 62_000, 0, 0, 0, 1 << 30], 1),
        ([-9_000, 64_900, 0, -64_900, -9_000, 0, 0, 0, 1 << 30], 6),
        ([2**31 - 1, 0, 0, 0, -(2**31), 0, 0, 0, 1 << 30], 4),
    ],
)
def test_matrices_that_are_none_of_the_eight(numbers, orientation):
    """The nearest of the eight counts; a matrix that shows nothing is no matrix."""
    assert np.array_equal(
        turned(stored(), numbers), turned(stored(), matrix(*MATRICES[orientation]))
    )
