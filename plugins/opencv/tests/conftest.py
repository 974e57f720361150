"""Fixtures of the tests: the contexts that a worker would give, and the demo pictures."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

import mataserver_opencv
from mataserver import LoadContext, ModelSpec

if TYPE_CHECKING:
    from collections.abc import Callable

PICTURES = Path(__file__).parents[3] / "examples" / "pictures"


@pytest.fixture(scope="session")
def load(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., object]:
    """Load a backend by name, as a worker does, with the plugin's settings as keywords."""

    def loaded(name: str, **settings: object) -> object:
        backend = next(b for b in mataserver_opencv.backends() if b.name == name)
        context = LoadContext(
            settings=mataserver_opencv.settings()(**settings),
            device="cpu",
            dtype="auto",
            threads=1,
            data_dir=tmp_path_factory.getbasetemp(),
            log=logging.getLogger("test"),
        )
        return backend.load(ModelSpec(name, backend.task, backend.source), context)

    return loaded


@pytest.fixture(scope="session")
def picture() -> Callable[[str], np.ndarray]:
    """Open a demo picture as RGB, read-only as the frames of a worker may be."""

    def opened(name: str) -> np.ndarray:
        with Image.open(PICTURES / name) as image:
            pixels = np.array(image.convert("RGB"))
        pixels.flags.writeable = False
        return pixels

    return opened
