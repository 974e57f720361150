"""Tesseract inside the worker, through tesserocr: no process per picture, the same lines.

tesserocr's package contains the engine and no language data. The engine must not be shared between
threads; a worker has one.
"""

from __future__ import annotations

import os
import re
import subprocess
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mataserver import Unavailable
from mataserver_ocr.tesseract_program import NO_PROGRAM
from mataserver_ocr.tesseract_words import SPACES, words_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from mataserver_ocr.options import TesseractSettings
    from mataserver_ocr.page_queue import Clock
    from mataserver_ocr.tesseract_words import Word

    Image = NDArray[np.uint8]

MAX_LOADED = 4
"""How many sets of languages stay loaded at a time."""


def open_engine(settings: TesseractSettings) -> tuple[InProcess, frozenset[str]]:
    """Return the engine and the languages that it has data for.

    Raises ``Unavailable`` when tesserocr or the data is missing.
    """
    try:
        library = import_module("tesserocr")
    except ImportError:
        raise Unavailable(
            "plugins.ocr.tesseract.in_process needs tesserocr: pip install tesserocr"
        ) from None
    folder = settings.data or os.environ.get("TESSDATA_PREFIX") or _program_data_folder()
    installed = frozenset(
        file.relative_to(folder).with_suffix("").as_posix()
        for file in Path(folder).rglob("*.traineddata")
    )
    if not installed:
        raise Unavailable("tesserocr finds no language data: set plugins.ocr.tesseract.data")
    return InProcess(library, folder, settings), installed


def _program_data_folder() -> str:
    """Return the data folder of the system's program, which it prints before its languages."""
    try:
        output = subprocess.run(
            ["tesseract", "--list-langs"],  # noqa: S607 - as pytesseract does, by PATH
            capture_output=True,
            check=False,
            text=True,
            timeout=10,
        ).stdout
    except (OSError, subprocess.TimeoutExpired):
        output = ""
    quoted = re.search(r'"([^"]+)"', output.partition("\n")[0])
    if quoted is None:
        raise Unavailable(NO_PROGRAM)
    return quoted[1]


class InProcess:
    """The engine inside this process; several sets of languages stay loaded."""

    def __init__(self, library: Any, folder: str, settings: TesseractSettings) -> None:
        """Keep the parts; ``library`` is the module ``tesserocr``.

        ``folder`` holds ``*.traineddata``.
        """
        self._library = library
        self._folder = folder
        self._settings = settings
        self._engine = lru_cache(MAX_LOADED)(self._open)

    def words(self, image: Image, codes: str, clock: Clock) -> list[Word]:
        """Return the words of one picture; a clock that is stopped meanwhile does not end it."""
        height, width = image.shape[:2]
        engine = self._engine(codes)
        try:
            engine.SetImageBytes(image.tobytes(), width, height, 3, 3 * width)
            if not engine.Recognize(max(1, round(clock.left * 1000))):
                raise TimeoutError
            return words_of(engine.GetTSVText(0), engine.GetUTF8Text())
        finally:
            engine.Clear()

    def _open(self, codes: str) -> Any:
        return self._library.PyTessBaseAPI(
            path=self._folder, lang=codes, psm=self._settings.segmentation, variables=dict(SPACES)
        )
