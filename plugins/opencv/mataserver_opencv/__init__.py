"""Detection with the models inside OpenCV: faces and QR codes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mataserver import Backend, hookimpl
from mataserver_opencv import faces, qr

if TYPE_CHECKING:
    from collections.abc import Iterable

PACKAGES = ("opencv-python-headless>=4.12,<5",)
PRELOAD = ("cv2", "numpy")


@hookimpl
def settings() -> type[faces.Settings]:
    """Return the type of ``plugins.opencv``."""
    return faces.Settings


@hookimpl
def backends() -> Iterable[Backend]:
    """Return ``opencv-faces`` and ``opencv-qr``."""
    return (
        Backend(
            name="opencv-faces",
            task="detect",
            source="pip",
            load=faces.load,
            params=faces.FaceParams,
            requires=("cv2",),
            packages=PACKAGES,
            preload=PRELOAD,
            default=True,
        ),
        Backend(
            name="opencv-qr",
            task="detect",
            source="pip",
            load=qr.load,
            params=qr.QrParams,
            requires=("cv2",),
            packages=PACKAGES,
            preload=PRELOAD,
            default=True,
        ),
    )
