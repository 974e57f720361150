"""The system's program ``tesseract``, one process per picture, through pytesseract."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from mataserver import Unavailable
from mataserver_ocr.tesseract_words import SPACES, words_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from mataserver_ocr.options import TesseractSettings
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

    def words(self, image: Image, codes: str, seconds: float) -> list[Word]:
        """Return the words of one picture."""
        from pytesseract import pytesseract

        variables = {"tessedit_create_tsv": "1", "tessedit_create_txt": "1", **SPACES}
        options = " ".join(f"-c {name}={value}" for name, value in variables.items())
        try:
            # Not its ``image_to_data``, which cuts confidences to whole per cents.
            with pytesseract.save(_portable(image)) as (base, picture):
                pytesseract.run_tesseract(
                    picture,
                    base,
                    "tsv",
                    codes,
                    config=f"--psm {self._mode} {options}",
                    timeout=seconds,
                )
                table, text = (
                    Path(f"{base}.{kind}").read_text(encoding="utf-8") for kind in ("tsv", "txt")
                )
        except pytesseract.TesseractNotFoundError:
            raise Unavailable(NO_PROGRAM) from None
        except pytesseract.TesseractError:
            raise  # a subclass of RuntimeError, but not the timeout below
        except RuntimeError:
            raise TimeoutError from None
        return words_of(table, text)


def _portable(image: Image) -> Any:
    """Wrap the array for pytesseract, to be passed uncompressed instead of as PNG."""
    import PIL.Image

    picture = PIL.Image.fromarray(image)
    picture.format = "PPM"
    return picture
