"""What the plugin declares, before anything is loaded."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys

import msgspec
import pytest

import mataserver_ocr
from mataserver import ModelFiles, Unavailable, testing
from mataserver.config import load as configure
from mataserver.plugins import discover
from mataserver_ocr import easyocr, paddleocr, rapidocr, tesseract

INSTALLED = {name for name in ("easyocr", "paddleocr") if importlib.util.find_spec(name)}


def test_importing_the_plugin_imports_no_framework():
    """The catalogue exists without an engine: importing the plugin loads none."""
    code = (
        "import sys, mataserver_ocr as p; p.settings(); list(p.backends());"
        "heavy = ('cv2', 'onnxruntime', 'rapidocr', 'pytesseract', 'PIL', 'torch', 'easyocr',"
        "'paddle', 'paddleocr', 'tesserocr');"
        "print([m for m in heavy if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_each_backend_serves_its_own_name_alone():
    """A pip backend serves the one model that has its name, for its task."""
    backends = {backend.name: backend for backend in mataserver_ocr.backends()}
    assert set(backends) == {"rapidocr", "tesseract", "easyocr", "paddleocr"}
    for name, backend in backends.items():
        assert backend.serves(ModelFiles(name, "pip"), "ocr")
        assert not backend.serves(ModelFiles(name, "pip"), "detect")
        assert not backend.serves(ModelFiles("another", "pip"), "ocr")


def test_nothing_that_starts_threads_is_preloaded():
    """A zygote forks, and onnxruntime has threads from its import on: no backend preloads."""
    assert {backend.preload for backend in mataserver_ocr.backends()} == {()}


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("easyocr", "pip install 'easyocr>=1.7.2,<2'"),
        ("paddleocr", "pip install 'paddlepaddle>=3.3,<4' 'paddleocr>=3.7,<4'"),
    ],
)
def test_a_missing_engine_is_named_with_the_command(name, command, tmp_path):
    """An engine that is not installed is 503 with what pip installs; the plugin works without."""
    if name in INSTALLED:
        pytest.skip(f"{name} is installed")
    plugins = discover(configure(environ={}, directory=tmp_path), testing.installed("ocr"))
    assert plugins.pip_backend(name) is not None
    with pytest.raises(Unavailable) as caught:
        plugins.pip_backend(name).check_installed()
    assert command in caught.value.detail


@pytest.mark.parametrize(
    ("params", "sent"),
    [
        (rapidocr.RapidOcrParams, {"language": "deu"}),
        (tesseract.TesseractParams, {"language": "eng+deu"}),
        (easyocr.EasyOcrParams, {"language": "jpn", "detail": 0}),
        (paddleocr.PaddleOcrParams, {"language": "japan"}),
    ],
)
def test_params_cross_the_wire(params, sent):
    """Params made of JSON values survive the way to a worker; others are refused."""
    made = msgspec.convert(sent, params)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(made), type=params) == made
    assert made != params()
    for wrong in ({"languages": "eng"}, {"language": ""}, {"detail": 2}):
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert(wrong, params)


@pytest.mark.parametrize(
    ("given", "key"),
    [
        ({"tesseract": {"timeout": 0}}, "tesseract.timeout"),
        ({"tesseract": {"segmentation": 0}}, "tesseract.segmentation"),
        ({"rapidocr": {"max_side": 1}}, "rapidocr.max_side"),
        ({"rapidocr": {"min_confidence": 1.5}}, "rapidocr.min_confidence"),
        ({"rapidocr": {"side": 1}}, "side"),
        ({"tesseract": {"in_process": "yes"}}, "tesseract.in_process"),
        ({"easyocr": {"readers": 0}}, "easyocr.readers"),
        ({"easyocr": {"recogniser": "../mine"}}, "easyocr.recogniser"),
        ({"paddleocr": {"size": "huge"}}, "paddleocr.size"),
        ({"doctr": {}}, "doctr"),
    ],
)
def test_settings_refuse_wrong_values_by_name(given, key):
    """A value out of range and a misspelt key stop the start and are named."""
    with pytest.raises(msgspec.ValidationError, match=key):
        msgspec.convert(given, mataserver_ocr.settings())


@pytest.mark.parametrize(
    ("name", "packages", "binary"),
    [
        ("easyocr", ["easyocr"], None),
        ("paddleocr", ["paddlepaddle", "paddleocr"], None),
        ("tesseract", ["pytesseract"], "tesseract"),
    ],
)
def test_packages_of_an_engine(name, packages, binary):
    """What ``show`` lists, and ``pull`` installs, are the engine's own packages and program."""
    (backend,) = (each for each in mataserver_ocr.backends() if each.name == name)
    names = [re.match(r"[\w-]+", each)[0] for each in backend.packages]
    assert (names, backend.system_binary) == (packages, binary)
