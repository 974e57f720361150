"""The system's program ``tesseract``, one process per picture, through pytesseract."""

from __future__ import annotations

import contextlib
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mataserver import Unavailable
from mataserver_ocr.page_queue import BEAT
from mataserver_ocr.tesseract_words import SPACES, words_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from mataserver_ocr.options import TesseractSettings
    from mataserver_ocr.page_queue import Clock
    from mataserver_ocr.tesseract_words import Word

    Image = NDArray[np.uint8]

NO_PROGRAM = "the program 'tesseract' is not installed; on Debian: apt install tesseract-ocr"


def installed() -> frozenset[str]:
    """Return the names of the program's language data.

    Raises ``Unavailable`` when there is no program.
    """
    import pytesseract

    try:
        return frozenset(pytesseract.get_languages(config=""))
    except pytesseract.TesseractNotFoundError:
        raise Unavailable(NO_PROGRAM) from None


class Program:
    """The system's ``tesseract``, one process per picture."""

    def __init__(self, settings: TesseractSettings) -> None:
        """Keep the page segmentation mode."""
        self._mode = settings.segmentation

    def words(self, image: Image, codes: str, clock: Clock) -> list[Word]:
        """Return the words of one picture."""
        from pytesseract import pytesseract

        variables = {"tessedit_create_tsv": "1", "tessedit_create_txt": "1", **SPACES}
        options = [part for each in variables.items() for part in ("-c", "=".join(each))]
        # Not its ``image_to_data``, which cuts confidences to whole per cents.
        with pytesseract.save(_portable(image)) as (base, picture):
            _run([picture, base, "-l", codes, "--psm", str(self._mode), *options], clock)
            table, text = (
                Path(f"{base}.{kind}").read_text(encoding="utf-8") for kind in ("tsv", "txt")
            )
        return words_of(table, text)


def _run(arguments: list[str], clock: Clock) -> None:
    """Run the program, and kill it once ``clock`` is over. pytesseract's own run cannot be ended.

    Raises ``TimeoutError`` when it was killed.
    """
    from pytesseract import pytesseract

    try:
        process = subprocess.Popen(  # noqa: S603 - no shell, and languages are those of the tables
            [pytesseract.tesseract_cmd, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
    except FileNotFoundError:
        raise Unavailable(NO_PROGRAM) from None
    with process:
        errors = _communicate(process, clock)
    if process.returncode:
        raise pytesseract.TesseractError(process.returncode, pytesseract.get_errors(errors))


def _communicate(process: subprocess.Popen[bytes], clock: Clock) -> bytes:
    """Wait for the program's end, and return what it wrote of errors."""
    while clock.left:
        with contextlib.suppress(subprocess.TimeoutExpired):
            return process.communicate(timeout=min(BEAT, clock.left))[1]
    process.kill()
    raise TimeoutError


def _portable(image: Image) -> Any:
    """Wrap the array for pytesseract, to be passed uncompressed instead of as PNG.

    A grey picture gets one channel: the same words take Tesseract a sixth less CPU.
    """
    import PIL.Image

    is_grey = (image[..., 0] == image[..., 1]).all() and (image[..., 1] == image[..., 2]).all()
    picture = PIL.Image.fromarray(image[..., 0] if is_grey else image)
    picture.format = "PPM"
    return picture
