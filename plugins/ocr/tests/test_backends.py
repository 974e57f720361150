"""What the plugin declares, before anything is loaded."""

from __future__ import annotations

import subprocess
import sys

import msgspec
import pytest

import mataserver_ocr
from mataserver import ModelFiles


def test_importing_the_plugin_imports_no_framework():
    """The catalogue exists without an engine: importing the plugin loads none."""
    code = (
        "import sys, mataserver_ocr as p; p.settings(); list(p.backends());"
        "heavy = ('cv2', 'onnxruntime', 'rapidocr', 'pytesseract', 'PIL', 'torch');"
        "print([m for m in heavy if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_both_backends_serve_their_own_name_alone():
    """A pip backend serves the one model that has its name, for its task."""
    backends = {backend.name: backend for backend in mataserver_ocr.backends()}
    assert set(backends) == {"rapidocr", "tesseract"}
    for name, backend in backends.items():
        assert backend.serves(ModelFiles(name, "pip"), "ocr")
        assert not backend.serves(ModelFiles(name, "pip"), "detect")
        assert not backend.serves(ModelFiles("another", "pip"), "ocr")


def test_nothing_that_starts_threads_is_preloaded():
    """A zygote forks, and onnxruntime has threads from its import on: neither backend preloads."""
    assert [backend.preload for backend in mataserver_ocr.backends()] == [(), ()]


@pytest.mark.parametrize(
    ("given", "key"),
    [
        ({"tesseract": {"timeout": 0}}, "tesseract.timeout"),
        ({"tesseract": {"segmentation": 0}}, "tesseract.segmentation"),
        ({"rapidocr": {"max_side": 1}}, "rapidocr.max_side"),
        ({"rapidocr": {"min_confidence": 1.5}}, "rapidocr.min_confidence"),
        ({"rapidocr": {"side": 1}}, "side"),
        ({"easyocr": {}}, "easyocr"),
    ],
)
def test_settings_refuse_wrong_values_by_name(given, key):
    """A value out of range and a misspelt key stop the start and are named."""
    with pytest.raises(msgspec.ValidationError, match=key):
        msgspec.convert(given, mataserver_ocr.settings())
