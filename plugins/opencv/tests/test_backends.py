"""What the plugin declares, before anything is loaded."""

from __future__ import annotations

import subprocess
import sys

import msgspec
import pytest

import mataserver_opencv
from mataserver import ModelFiles


def test_importing_the_plugin_imports_no_framework():
    """The catalogue exists without cv2: importing the plugin and asking its hooks loads none."""
    code = (
        "import sys, mataserver_opencv as p; p.settings(); list(p.backends());"
        "print([m for m in ('cv2', 'PIL', 'torch', 'onnxruntime') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_both_backends_serve_their_own_name_alone():
    """A pip backend serves the one model that has its name, for its task."""
    backends = {backend.name: backend for backend in mataserver_opencv.backends()}
    assert set(backends) == {"opencv-faces", "opencv-qr"}
    for name, backend in backends.items():
        assert backend.serves(ModelFiles(name, "pip"), "detect")
        assert not backend.serves(ModelFiles(name, "pip"), "ocr")
        assert not backend.serves(ModelFiles("another", "pip"), "detect")


@pytest.mark.parametrize(
    "given", [{"scale_factor": 1.0}, {"min_neighbors": 0}, {"min_size": -1}, {"min_sise": 3}]
)
def test_settings_refuse_what_opencv_would_choke_on(given):
    """A value out of range and a misspelt key stop the start instead of the first request."""
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(given, mataserver_opencv.settings())
