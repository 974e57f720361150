"""EasyOCR: CRAFT (arXiv:1904.01941) detects words, a recogniser per script reads them.

Its package contains no model files. Without the setting ``download`` a missing file is an error,
and nothing accesses the network. It needs torchvision, in the release made for torch.
"""

from __future__ import annotations

import re
import warnings
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from msgspec import Meta

from mataserver import Confidence, InvalidParams, Params, TextRegion, Unavailable
from mataserver_ocr import languages, regions
from mataserver_ocr.page_model import PageModel

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from mataserver import LoadContext, ModelSpec, OcrResult
    from mataserver_ocr.options import EasyOcrSettings

    Image = NDArray[np.uint8]
    Codes = tuple[str, ...]

STANDARD = "standard"


class EasyOcrParams(Params, frozen=True):
    """What to read and how to tell.

    language:   one code, or several as in ``"jpn+eng"``; the setting's where it is missing. English
                goes with every language, others go with those of their own script.
    detail:     0 returns text alone: every ``bbox`` is null and every confidence 1.0.
    confidence: what EasyOCR is less sure of is left out, also where ``detail`` does not tell how
                sure it is; all is told where it is missing.
    """

    language: Annotated[str, Meta(min_length=1, max_length=64)] | None = None
    detail: Literal[0, 1] = 1
    confidence: Confidence = 0.0


def load(spec: ModelSpec, ctx: LoadContext) -> EasyOcr:
    """Open CRAFT and the recogniser of the configured language, with ``ctx.threads`` threads.

    Raises ``Unavailable`` for a device, a package or a model file that is missing.
    """
    del spec  # there is one model
    try:
        engine = import_module("easyocr")
    except (ImportError, RuntimeError) as error:
        raise Unavailable(
            "easyocr cannot be imported; it needs the torchvision release made for the installed "
            "torch"
        ) from error
    torch, cv2 = import_module("torch"), import_module("cv2")
    if ctx.threads:
        torch.set_num_threads(ctx.threads)
        cv2.setNumThreads(ctx.threads)
    model = EasyOcr(engine, ctx.settings.easyocr, choose_device(ctx.device, torch))
    model.open_default()
    return model


def choose_device(wanted: str, torch: Any) -> str:
    """Return "cpu" or "cuda:N" for "auto", "cpu", "cuda" or "cuda:N".

    Raises ``Unavailable`` for a GPU that ``torch`` does not find.
    """
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if wanted == "cpu" or (wanted == "auto" and not gpus):
        return "cpu"
    match = re.fullmatch(r"auto|cuda(?::(\d+))?", wanted)
    number = int(match[1] or 0) if match else gpus
    if number >= gpus:
        raise Unavailable(f"the device {wanted!r} was asked for, but torch does not find it here")
    return f"cuda:{number}"


class EasyOcr(PageModel[EasyOcrParams]):
    """A word detector, and a few recognisers, opened when a language is first used."""

    def __init__(self, engine: Any, settings: EasyOcrSettings, device: str) -> None:
        """Open CRAFT; ``engine`` is the module ``easyocr``."""
        self._engine = engine
        self._settings = settings
        self._device = device
        self._native = frozenset(engine.config.all_lang_list)
        self._detector = self._open(("en",), STANDARD, recognizer=False)
        self._reader = lru_cache(settings.readers)(self._open_reader)

    def open_default(self) -> None:
        """Open the recogniser of the configured language."""
        self._reader(self.codes(self._settings.language))

    def stream(self, image: Callable[[], Image], params: EasyOcrParams) -> Iterator[OcrResult]:
        """Yield the words and phrases of an image in reading order.

        Raises ``InvalidParams`` for a language that is unknown or cannot be combined with another,
        and ``Unavailable`` when the files of its model are missing.
        """
        codes = self.codes(params.language or self._settings.language)
        yield self._read(image(), codes, params)

    def close(self) -> None:
        """Free the weights."""
        self._reader.cache_clear()
        self._detector = None

    def codes(self, given: str) -> Codes:
        """Return EasyOCR's codes of the languages ``given``, sorted, each once."""
        return tuple(sorted({self._code(part) for part in languages.split_codes(given)}))

    def _code(self, given: str) -> str:
        language = languages.find(given)
        if language is None:
            if given in self._native:  # EasyOCR supports some that the table lacks
                return given
            raise languages.unknown_language(given)
        if language.easyocr is None:
            raise InvalidParams(f"params.language: easyocr does not read {language.name}")
        return language.easyocr

    def _read(self, image: Image, codes: Codes, params: EasyOcrParams) -> OcrResult:
        import cv2

        height, width = image.shape[:2]
        reader = self._reader(codes)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns about EasyOCR at every picture
            boxes = self._detector.detect(cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
            grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
            # A batch of one picture: its upright boxes, then its slanted ones.
            found = reader.recognize(grey, boxes[0][0], boxes[1][0], reformat=False)
        arabic = not languages.EASYOCR_ARABIC.isdisjoint(codes)
        return regions.result(list(_regions(found, height, width, params, right_to_left=arabic)))

    def _open_reader(self, codes: Codes) -> Any:
        try:
            return self._open(codes, self._settings.recogniser, detector=False)
        except ValueError as error:
            raise InvalidParams(_language_error(codes, self._settings.recogniser)) from error

    def _open(self, codes: Codes, recogniser: str, **parts: bool) -> Any:
        """Open a ``Reader`` without one of its two networks."""
        places: dict[str, str] = {}
        if self._settings.directory:
            root = Path(self._settings.directory)
            places["model_storage_directory"] = str(root / "model")
            places["user_network_directory"] = str(root / "user_network")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                reader = self._engine.Reader(
                    list(codes),
                    gpu=False if self._device == "cpu" else self._device,
                    recog_network=recogniser,
                    download_enabled=self._settings.download,
                    verbose=False,
                    **places,
                    **parts,
                )
        except OSError as error:
            raise Unavailable(
                _missing_file_error(codes, str(error), self._settings.download)
            ) from error
        _unwrap_parallel(reader)
        return reader


def _language_error(codes: Codes, recogniser: str) -> str:
    """Return why EasyOCR refused: one language, or several that cannot be combined."""
    if len(codes) == 1:
        return f"params.language: easyocr's {recogniser} recogniser does not read {codes[0]}"
    return (
        "params.language: easyocr cannot read these languages together; English goes with every "
        "one, others with those of their own script"
    )


def _unwrap_parallel(reader: Any) -> None:
    """Take the networks out of ``DataParallel``, which moves data to the first GPU."""
    for name in ("detector", "recognizer"):
        inner = getattr(getattr(reader, name, None), "module", None)
        if inner is not None:
            setattr(reader, name, inner)


def _missing_file_error(codes: Codes, message: str, download: bool) -> str:
    """Return which file is missing: its name, never its path."""
    file = re.search(r"[^/\\\s']+\.(?:pth|yaml)", message)
    name = f"the file {file[0]}" if file else "a model file"
    cure = (
        "it could not be fetched"
        if download
        else "set plugins.ocr.easyocr.download to true, or put it into the model directory"
    )
    return f"easyocr needs {name} for {'+'.join(codes)}: {cure}"


def _regions(
    found: Sequence[tuple[Any, str, float]],
    height: int,
    width: int,
    params: EasyOcrParams,
    *,
    right_to_left: bool,
) -> Iterator[TextRegion]:
    """Yield EasyOCR's regions in reading order, without empty ones."""
    quads = [[(float(x), float(y)) for x, y in quad] for quad, _, _ in found]
    middles = [(sum(x for x, _ in q) / 4, sum(y for _, y in q) / 4) for q in quads]
    heights = [max(y for _, y in q) - min(y for _, y in q) for q in quads]
    lengths = [max(x for x, _ in q) - min(x for x, _ in q) for q in quads]
    for index in regions.reading_order(middles, heights, lengths, right_to_left=right_to_left):
        text, score = found[index][1].strip(), min(max(float(found[index][2]), 0.0), 1.0)
        box = regions.bounding_box(quads[index], height, width)
        if text and box is not None and score >= params.confidence:
            known = (box, score) if params.detail else (None, 1.0)
            yield TextRegion(text, *known)
