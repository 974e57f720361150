"""What all engines have in common: they read one page at a time, and answer each by itself.

A page's time and its failure are then its own, however many are sent together: the server takes
the streams of a model in turn.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import partial
from typing import TYPE_CHECKING, Generic, TypeVar, cast

from mataserver import Params

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from mataserver import OcrResult

    Image = NDArray[np.uint8]

P = TypeVar("P", bound=Params)


class PageModel(ABC, Generic[P]):
    """A model that reads one page at a time."""

    lazy_images = True

    @abstractmethod
    def stream(self, image: Callable[[], Image], params: P) -> Iterator[str | OcrResult]:
        """Yield the result of a page last, and before it empty texts: they say that it works.

        ``image`` returns the page RGB uint8 ``[H, W, 3]``. It is called when the page's turn comes.
        """

    def predict(self, images: Sequence[Image], params: Sequence[P]) -> list[OcrResult]:
        """Return the results of images, read one after another."""
        return [
            last(self.stream(partial(_same, image), each))
            for image, each in zip(images, params, strict=True)
        ]


def _same(image: Image) -> Image:
    return image


def last(items: Iterator[str | OcrResult]) -> OcrResult:
    """Return the result with which a page's stream ends."""
    *_, result = items
    return cast("OcrResult", result)
