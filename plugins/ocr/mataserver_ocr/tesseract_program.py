"""The system's program ``tesseract``, one process per picture, through pytesseract."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mataserver import BadRequest, Unavailable

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from mataserver_ocr.options import TesseractSettings

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
        """Keep the page segmentation mode and the timeout."""
        self._settings = settings

    def words(self, image: Image, codes: str) -> dict[str, list[Any]]:
        """Return the table of one picture."""
        import pytesseract

        try:
            table: dict[str, list[Any]] = pytesseract.image_to_data(
                _portable(image),
                lang=codes,
                config=f"--psm {self._settings.segmentation}",
                output_type=pytesseract.Output.DICT,
                timeout=self._settings.timeout,
            )
        except pytesseract.TesseractNotFoundError:
            raise Unavailable(NO_PROGRAM) from None
        except pytesseract.TesseractError:
            raise  # a subclass of RuntimeError, but not the timeout below
        except RuntimeError:
            raise too_slow(self._settings.timeout) from None
        return table


def too_slow(seconds: float) -> BadRequest:
    """Return the error for a picture that exceeded the timeout: asking again does not help."""
    return BadRequest(f"tesseract did not finish this image within {seconds:g} s")


def _portable(image: Image) -> Any:
    """Wrap the array for pytesseract, to be passed uncompressed instead of as PNG."""
    import PIL.Image

    picture = PIL.Image.fromarray(image)
    picture.format = "PPM"
    return picture
