"""What surrounds EasyOCR, with a stand-in; ``engines/easyocr_cases.py`` runs the real one."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from mataserver import InvalidParams, TextRegion, Unavailable
from mataserver_ocr.easyocr import EasyOcr, EasyOcrParams, choose_device
from mataserver_ocr.options import EasyOcrSettings

PICTURE = np.full((100, 200, 3), (255, 0, 0), np.uint8)
WORDS = [
    ([[120, 12], [190, 12], [190, 30], [120, 30]], "right", 0.75),
    ([[-5, 10], [90, 10], [90, 28], [-5, 28]], " left ", 1.25),
    ([[0, 60], [50, 60], [50, 80], [0, 80]], " ", 0.5),
]


class StandIn:
    """The module ``easyocr``: notes which readers are opened and what they are shown."""

    def __init__(self, *, missing=(), words=WORDS):
        self.config = SimpleNamespace(all_lang_list=["en", "de", "ja", "ko", "ru", "abq"])
        self.missing, self.words, self.opened, self.shown = missing, words, [], []

    def Reader(self, codes, **options):  # noqa: N802 - EasyOCR's own name
        """Fail as EasyOCR does: at scripts that do not mix, and at files that are not there."""
        if {"ja", "ko"} <= set(codes):
            raise ValueError('Japanese is only compatible with English, try lang_list=["ja","en"]')
        if options["recog_network"] == "mine" and not set(codes) <= {"en", "ja"}:
            raise ValueError("Mine is only compatible with ['en', 'ja'], try ...")
        if set(self.missing) & set(codes):
            raise FileNotFoundError("Missing /secret/model/one_g2.pth and downloads disabled")
        self.opened.append((codes, options))
        return self

    def detect(self, picture):
        self.shown.append(picture)
        return [["upright"]], [["slanted"]]

    def recognize(self, picture, upright, slanted, *, reformat):
        assert (upright, slanted, reformat) == (["upright"], ["slanted"], False)
        self.shown.append(picture)
        return self.words


def model(engine, **settings):
    return EasyOcr(engine, EasyOcrSettings(**settings), "cpu")


def read(reader, **params):
    return reader.predict([PICTURE], [EasyOcrParams(**params)])[0]


def test_regions_are_in_reading_order_within_the_image():
    """Words come from the left, clipped to the picture, without blanks and empty ones."""
    result = read(model(StandIn()))
    assert result.regions == [
        TextRegion("left", (0.0, 10.0, 90.0, 28.0), 1.0),
        TextRegion("right", (120.0, 12.0, 190.0, 30.0), 0.75),
    ]
    assert result.text == "left\nright"


@pytest.mark.parametrize(
    ("language", "order"),
    [
        ("ara", "right\nleft"),
        ("en+fa", "right\nleft"),
        ("urd", "right\nleft"),
        ("ru", "left\nright"),
    ],
)
def test_arabic_words_are_read_from_the_right(language, order):
    """The words of a row come in the order of the language's letters."""
    assert read(model(StandIn()), language=language).text == order


def test_without_detail_only_the_text_is_told():
    """``detail`` 0 leaves out places and scores; 1 is the default."""
    short = read(model(StandIn()), detail=0)
    assert short.regions == [TextRegion("left", None, 1.0), TextRegion("right", None, 1.0)]
    assert EasyOcrParams().detail == 1


def test_pictures_are_handed_over_as_bgr_and_grey():
    """EasyOCR looks for words in blue, green, red and reads them in grey."""
    engine = StandIn()
    read(model(engine))
    colours, grey = engine.shown
    assert colours[0, 0].tolist() == [0, 0, 255]
    assert grey.shape == (100, 200)
    assert grey[0, 0] == 76  # red weighs 0.299


def test_readers_are_kept_by_language():
    """A set of languages is opened once, in whatever order and spelling it is asked for."""
    engine = StandIn()
    reader = model(engine, readers=2)
    for language in (None, "eng", "en", "deu+eng", "English, German", "ru", "eng"):
        read(reader, language=language)
    [finder, *opened] = [codes for codes, _ in engine.opened]
    assert finder == ["en"]
    assert opened == [["en"], ["de", "en"], ["ru"], ["en"]]  # the first was given up for the third
    assert [options["download_enabled"] for _, options in engine.opened] == [False] * 5


def test_words_are_found_by_one_network():
    """The finder is opened once without a recogniser, every recogniser without a finder."""
    engine = StandIn()
    read(model(engine, directory="/ocr", recogniser="mine", download=True), language="ja")
    (_, finder), (_, recogniser) = engine.opened
    assert (finder["recog_network"], finder["recognizer"]) == ("standard", False)
    assert (recogniser["recog_network"], recogniser["detector"]) == ("mine", False)
    for options in (finder, recogniser):
        assert options["model_storage_directory"] == "/ocr/model"
        assert options["user_network_directory"] == "/ocr/user_network"
        assert options["download_enabled"] is True
        assert options["gpu"] is False


def test_a_missing_file_is_named_without_its_place():
    """The answer is 503, names the file and the setting that fetches it, and holds no path."""
    with pytest.raises(Unavailable) as caught:
        read(model(StandIn(missing=["ru"])), language="rus")
    assert caught.value.detail == (
        "easyocr needs the file one_g2.pth for ru: set plugins.ocr.easyocr.download to true, or "
        "put it into the model directory"
    )
    with pytest.raises(Unavailable, match="could not be fetched"):
        read(model(StandIn(missing=["ru"]), download=True), language="rus")
    with pytest.raises(Unavailable, match=r"one_g2\.pth for en"):
        model(StandIn(missing=["en"]))


@pytest.mark.parametrize(
    ("language", "said"),
    [
        ("jpn+kor", "cannot read these languages together"),
        ("klingon", r"params\.language: unknown language 'klingon'"),
        ("../eng", "unknown"),
        ("ell", "easyocr does not read Greek"),
    ],
)
def test_languages_that_it_cannot_read_are_422(language, said):
    """Unknown and unread languages, and those that do not go together, are refused."""
    with pytest.raises(InvalidParams, match=said):
        read(model(StandIn()), language=language)


def test_one_language_that_a_recogniser_does_not_read_is_refused_as_one():
    """Of a single language nothing is said about going together with others."""
    reader = model(StandIn(), recogniser="mine")
    with pytest.raises(InvalidParams) as caught:
        read(reader, language="rus")
    assert caught.value.detail == "params.language: easyocr's mine recogniser does not read ru"
    with pytest.raises(InvalidParams, match="these languages together"):
        read(reader, language="rus+jpn")


@pytest.mark.parametrize("detail", [0, 1])
def test_what_is_less_sure_than_asked_for_is_left_out(detail):
    """``confidence`` leaves out words by their score, also where ``detail`` hides it."""
    reader = model(StandIn())
    told = [read(reader, confidence=least, detail=detail).text for least in (0.0, 0.75, 0.76)]
    assert told == ["left\nright", "left\nright", "left"]


def test_codes_are_easyocrs_own():
    """Every name of the table becomes EasyOCR's code; its further codes are taken as they are."""
    reader = model(StandIn())
    assert reader.codes("jpn") == ("ja",)
    assert reader.codes("chi_sim+eng") == ("ch_sim", "en")
    assert reader.codes("zh-TW") == ("ch_tra",)
    assert reader.codes("srp") == ("rs_cyrillic",)
    assert reader.codes("abq") == ("abq",)


@pytest.mark.parametrize(
    ("wanted", "gpus", "device"),
    [
        ("auto", 0, "cpu"), ("auto", 2, "cuda:0"), ("cpu", 2, "cpu"), ("cuda", 1, "cuda:0"),
        ("cuda:1", 2, "cuda:1"),
    ],
)  # fmt: skip
def test_devices(wanted, gpus, device):
    """The server's names of devices lead to torch's; "auto" takes a GPU if there is one."""
    assert choose_device(wanted, torch_with(gpus)) == device


@pytest.mark.parametrize(("wanted", "gpus"), [("cuda", 0), ("cuda:1", 1), ("tpu", 1)])
def test_devices_that_are_not_there(wanted, gpus):
    """A device that torch does not find is 503 and named."""
    with pytest.raises(Unavailable, match=wanted):
        choose_device(wanted, torch_with(gpus))


def torch_with(gpus):
    return SimpleNamespace(
        cuda=SimpleNamespace(is_available=lambda: gpus > 0, device_count=lambda: gpus)
    )


def test_networks_on_a_gpu_stay_where_they_are():
    """EasyOCR's wrapper for several GPUs, which would move data to the first one, is taken off."""
    engine = StandIn()
    engine.recognizer = SimpleNamespace(module="the network")
    EasyOcr(engine, EasyOcrSettings(), "cuda:1")
    assert engine.opened[0][1]["gpu"] == "cuda:1"
    assert engine.recognizer == "the network"
