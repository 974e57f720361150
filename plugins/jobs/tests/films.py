"""What the tests' jobs look at: videos and ZIP files made here."""

from __future__ import annotations

import io
import zipfile

import av
import numpy as np
from PIL import Image


def video(path, count=20, form=None, options=None):
    """Write a video of ``count`` grey frames of 96x64 at 25 a second, each with a red box."""
    with av.open(str(path), "w", format=form, options=options or {}) as container:
        stream = container.add_stream("libx264", rate=25, options={"preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for _ in range(count):
            pixels = np.full((64, 96, 3), 60, np.uint8)
            pixels[16:48, 32:64] = (255, 0, 0)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels)))
        container.mux(stream.encode(None))
    return path


def sound(path):
    """Write a file that has sound alone."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        frame.rate = 8000
        container.mux([*stream.encode(frame), *stream.encode(None)])
    return path


def picture(width=64, height=48):
    """Return an encoded picture."""
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), (60, 60, 60)).save(buffer, "PNG")
    return buffer.getvalue()


def archive(path, entries):
    """Write a ZIP file of pairs of a name, or a ``ZipInfo``, and bytes."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as made:
        for name, data in entries:
            made.writestr(name, data)
    return path
