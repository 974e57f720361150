"""Tesseract in the worker, with a stand-in; ``engines/tesserocr_cases.py`` runs the real one."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest

from mataserver import BadRequest, Unavailable
from mataserver_ocr.options import TesseractSettings
from mataserver_ocr.tesseract import Tesseract, TesseractParams
from mataserver_ocr.tesserocr import InProcess

PICTURE = np.full((100, 200, 3), 255, np.uint8)
TABLE = """\
1\t1\t0\t0\t0\t0\t0\t0\t200\t100\t-1\t
4\t1\t1\t1\t1\t0\t20\t10\t120\t20\t-1\t
5\t1\t1\t1\t1\t1\t20\t10\t50\t20\t96.5\tGate
5\t1\t1\t1\t1\t2\t80\t12\t60\t18\t90.5\t7
5\t1\t1\t1\t2\t1\t20\t50\t50\t20\t80\tMax
"""
TEXT = "Gate 7\nMax\n"


class StandIn:
    """The module ``tesserocr``: notes what is opened and cleared."""

    def __init__(self, *, in_time=True):
        self.in_time, self.opened, self.cleared = in_time, [], 0

    def PyTessBaseAPI(self, **options):  # noqa: N802 - tesserocr's own name
        self.opened.append(options)
        return self

    def SetImageBytes(self, data, width, height, depth, stride):  # noqa: N802
        assert (len(data), width, height, depth, stride) == (60_000, 200, 100, 3, 600)

    def Recognize(self, milliseconds):  # noqa: N802
        assert 0 < milliseconds <= 30_000
        return self.in_time

    def GetTSVText(self, page):  # noqa: N802
        return TABLE

    def GetUTF8Text(self):  # noqa: N802
        return TEXT

    def Clear(self):  # noqa: N802
        self.cleared += 1


def model(library):
    settings = TesseractSettings(in_process=True, segmentation=6)
    return Tesseract(settings, frozenset({"eng"}), InProcess(library, "/data", settings))


def test_lines_are_those_of_the_table():
    """Words of a line are joined, its box encloses them, its confidence is their mean."""
    library = StandIn()
    results = model(library).predict([PICTURE] * 2, [TesseractParams()] * 2)
    first, second = results[0].regions
    assert (first.text, first.bbox) == ("Gate 7", (20.0, 10.0, 140.0, 30.0))
    assert first.confidence == pytest.approx(0.935)
    assert (second.text, second.bbox) == ("Max", (20.0, 50.0, 70.0, 70.0))
    spaces = {"preserve_interword_spaces": "1"}
    opened = {"path": "/data", "lang": "eng", "psm": 6, "variables": spaces}
    assert library.opened == [opened]
    assert library.cleared == 2


def test_a_slow_image_is_given_up_and_cleared():
    """After the configured seconds the answer is 400, and the picture is gone."""
    library = StandIn(in_time=False)
    with pytest.raises(BadRequest, match="within 30 s"):
        model(library).predict([PICTURE], [TesseractParams()])
    assert library.cleared == 1


@pytest.mark.skipif(
    importlib.util.find_spec("tesserocr") is not None, reason="tesserocr is installed"
)
def test_asked_for_and_not_installed_is_named(load):
    """The setting without the package is an error with the command, not another engine."""
    with pytest.raises(Unavailable, match="pip install tesserocr"):
        load("tesseract", in_process=True)
