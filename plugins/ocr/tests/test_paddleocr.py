"""What surrounds PaddleOCR, with a stand-in; ``engines/paddleocr_cases.py`` runs the real one."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from mataserver import InvalidParams, TextRegion, Unavailable
from mataserver_ocr.options import PaddleOcrSettings
from mataserver_ocr.paddleocr import (
    CACHE,
    PaddleOcr,
    PaddleOcrParams,
    choose_device,
    models_of,
    recogniser_for,
)

PICTURE = np.full((100, 200, 3), (255, 0, 0), np.uint8)
PAGE = {
    "rec_polys": [
        [[120, 12], [190, 12], [190, 30], [120, 30]],
        [[-5, 10], [90, 10], [90, 28], [-5, 28]],
        [[0, 60], [50, 60], [50, 80], [0, 80]],
    ],
    "rec_texts": ["right", " left ", ""],
    "rec_scores": [0.75, 1.25, 0.5],
}
EMPTY = {"rec_polys": np.empty((0,)), "rec_texts": [], "rec_scores": []}


class StandIn:
    """The module ``paddleocr``: notes what is opened and shown."""

    def __init__(self, page=PAGE):
        self.page, self.opened, self.shown = page, [], []

    def PaddleOCR(self, **options):  # noqa: N802 - PaddleOCR's own name
        self.opened.append(options)
        return self

    def predict(self, picture):
        self.shown.append(picture)
        return [self.page]


@pytest.fixture
def directory(tmp_path):
    """A directory with the models of Latin, Cyrillic of the east, and Korean letters."""
    for recogniser in ("PP-OCRv6", "eslav", "korean"):
        for name in models_of(recogniser, "medium"):
            (tmp_path / name).mkdir(exist_ok=True)
    return tmp_path


def model(engine, directory, **settings):
    return PaddleOcr(engine, PaddleOcrSettings(directory=str(directory), **settings), "cpu", 2)


def read(reader, **params):
    return reader.predict([PICTURE], [PaddleOcrParams(**params)])[0]


def test_regions_are_in_reading_order_within_the_image(directory):
    """Lines come from the left, clipped to the picture, without blanks and empty ones."""
    engine = StandIn()
    result = read(model(engine, directory))
    assert result.regions == [
        TextRegion("left", (0.0, 10.0, 90.0, 28.0), 1.0),
        TextRegion("right", (120.0, 12.0, 190.0, 30.0), 0.75),
    ]
    assert result.text == "left\nright"
    assert engine.shown[0][0, 0].tolist() == [0, 0, 255]  # it wants blue, green, red
    assert read(model(StandIn(EMPTY), directory)).regions == []


@pytest.mark.parametrize(("language", "text"), [("ara", "right\nleft"), ("eng", "left\nright")])
def test_arabic_is_read_from_the_right(directory, language, text):
    """The pieces of a row come in the order of the language's letters."""
    for name in models_of("arabic", "medium"):
        (directory / name).mkdir(exist_ok=True)
    assert read(model(StandIn(), directory), language=language).text == text


def test_what_is_less_sure_than_asked_for_is_left_out(directory):
    """``confidence`` counts before ``min_confidence``, downwards too."""
    engine = StandIn(
        {**PAGE, "rec_texts": ["right", "left", "faint"], "rec_scores": [0.75, 1, 0.2]}
    )
    reader = model(engine, directory)
    assert engine.opened[0]["text_rec_score_thresh"] == 0.0
    told = [read(reader, confidence=least).text for least in (None, 0.0, 0.8)]
    assert told == ["left\nright", "left\nright\nfaint", "left"]


def test_pipelines_are_kept_by_script(directory):
    """Languages of one script share a pipeline; the setting says how many stay open."""
    engine = StandIn()
    reader = model(engine, directory, readers=2)
    for language in (None, "eng", "deu", "jpn+eng", "rus", "ukr+eng", "kor", "eng"):
        read(reader, language=language)
    assert [options["text_recognition_model_name"] for options in engine.opened] == [
        "PP-OCRv6_medium_rec",
        "eslav_PP-OCRv5_mobile_rec",
        "korean_PP-OCRv5_mobile_rec",
        "PP-OCRv6_medium_rec",
    ]
    first = engine.opened[0]
    assert first["text_recognition_model_dir"] == str(directory / "PP-OCRv6_medium_rec")
    assert first["text_detection_model_dir"] == str(directory / "PP-OCRv6_medium_det")
    assert (first["device"], first["cpu_threads"]) == ("cpu", 2)
    assert not any(first[name] for name in first if name.startswith("use_"))


def test_a_missing_model_is_named_without_its_place(directory):
    """The answer is 503, names the models and the setting that fetches them, and holds no path."""
    reader = model(StandIn(), directory)
    with pytest.raises(Unavailable) as caught:
        read(reader, language="ara")
    assert caught.value.detail == (
        "paddleocr needs the model arabic_PP-OCRv5_mobile_rec: set plugins.ocr.paddleocr.download "
        "to true, or put it into the model directory"
    )


def test_loading_without_models_does_not_even_import_paddle(load, tmp_path):
    """Where the configured language has no models, loading says so before it imports anything."""
    with pytest.raises(Unavailable, match="PP-OCRv6_small_det and PP-OCRv6_small_rec"):
        load("paddleocr", directory=str(tmp_path), size="small")


def test_with_download_paddle_is_given_names_alone(tmp_path):
    """A model that is not there is left for PaddleOCR to fetch."""
    engine = StandIn()
    read(model(engine, tmp_path, download=True))
    assert engine.opened[0]["text_recognition_model_dir"] is None
    assert engine.opened[0]["text_recognition_model_name"] == "PP-OCRv6_medium_rec"


def test_paddles_own_cache_is_the_default(directory, tmp_path, monkeypatch):
    """Without a directory the models are looked for where PaddleX puts them."""
    home = tmp_path / "home"
    home.mkdir()
    (home / "official_models").symlink_to(directory)
    monkeypatch.setenv(CACHE, str(home))
    engine = StandIn()
    PaddleOcr(engine, PaddleOcrSettings(), "cpu", 1)
    place = home / "official_models" / "PP-OCRv6_medium_rec"
    assert engine.opened[0]["text_recognition_model_dir"] == str(place)
    monkeypatch.delenv(CACHE)
    monkeypatch.setenv("HOME", str(home))
    with pytest.raises(Unavailable, match="PP-OCRv6_medium_rec"):
        PaddleOcr(engine, PaddleOcrSettings(), "cpu", 1)


@pytest.mark.parametrize(
    ("codes", "recogniser"),
    [
        ("eng", "PP-OCRv6"), ("jpn", "PP-OCRv6"), ("ch+deu", "PP-OCRv6"), ("en+ru", "eslav"),
        ("bel+ukr", "eslav"), ("bul", "cyrillic"), ("korean", "korean"), ("ar", "arabic"),
        ("hin", "devanagari"), ("tha", "th"), ("ell", "el"),
    ],
)  # fmt: skip
def test_a_script_has_one_recogniser(codes, recogniser):
    """Every name of a language leads to the recogniser of its script; English goes with all."""
    assert recogniser_for(codes) == recogniser


@pytest.mark.parametrize(
    ("codes", "said"),
    [
        ("rus+jpn", "cannot read these languages together"),
        ("rus+bul", "cannot read these languages together"),
        ("vie", "paddleocr does not read Vietnamese"),
        ("klingon", "unknown language 'klingon'"),
    ],
)
def test_languages_that_it_cannot_read_are_422(codes, said):
    """Unknown and unread languages, and those of two scripts, are refused."""
    with pytest.raises(InvalidParams, match=said):
        recogniser_for(codes)


def test_sizes_are_paddleocrs_names():
    """A smaller size is PP-OCRv6's own; PP-OCRv5 has one smaller detector."""
    assert models_of("PP-OCRv6", "tiny") == ("PP-OCRv6_tiny_det", "PP-OCRv6_tiny_rec")
    assert models_of("th", "medium") == ("PP-OCRv5_server_det", "th_PP-OCRv5_mobile_rec")
    assert models_of("th", "small") == ("PP-OCRv5_mobile_det", "th_PP-OCRv5_mobile_rec")


@pytest.mark.parametrize(
    ("wanted", "gpus", "device"),
    [
        ("auto", 0, "cpu"), ("auto", 2, "gpu:0"), ("cpu", 2, "cpu"), ("cuda", 1, "gpu:0"),
        ("cuda:1", 2, "gpu:1"),
    ],
)  # fmt: skip
def test_devices(wanted, gpus, device):
    """The server's names of devices lead to Paddle's; "auto" takes a GPU if there is one."""
    assert choose_device(wanted, paddle_with(gpus)) == device


@pytest.mark.parametrize(("wanted", "gpus"), [("cuda", 0), ("cuda:1", 1), ("tpu", 1)])
def test_devices_that_are_not_there(wanted, gpus):
    """A device that Paddle does not find, or was not built for, is 503 and named."""
    with pytest.raises(Unavailable, match=wanted):
        choose_device(wanted, paddle_with(gpus))


def paddle_with(gpus):
    return SimpleNamespace(
        is_compiled_with_cuda=lambda: gpus > 0,
        device=SimpleNamespace(cuda=SimpleNamespace(device_count=lambda: gpus)),
    )
