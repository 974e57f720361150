"""Text recognition with checkpoints: TrOCR and GOT-OCR2."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mataserver import hookimpl
from mataserver_hf import got_ocr2, options, trocr

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mataserver import Backend

settings = options.settings


@hookimpl
def backends() -> Iterable[Backend]:
    """Return the backends of the task ``ocr``."""
    return (trocr.BACKEND, got_ocr2.BACKEND)
