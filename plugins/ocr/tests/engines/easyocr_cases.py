"""EasyOCR itself on tiny networks of our own: run by ``run.py``, in an environment that has it.

The finder of words is a stand-in for CRAFT (79 MB, no smaller one exists) that takes what is dark
for text; EasyOCR loads its file, checks its sum and makes the boxes. The recogniser is one of a
user's own, as EasyOCR provides for.
"""

from __future__ import annotations

import hashlib
import importlib
import socket

import numpy as np
import pytest

from mataserver import InvalidParams, TextRegion, Unavailable
from mataserver_ocr.easyocr import EasyOcr, EasyOcrParams
from mataserver_ocr.languages import LANGUAGES
from mataserver_ocr.options import EasyOcrSettings

LETTERS = "0123456789abcdefghijklmnopqrstuvwxyz "
NETWORK = """
from torch import nn


class Model(nn.Module):
    def __init__(self, input_channel, output_channel, hidden_size, num_class):
        super().__init__()
        self.look = nn.Conv2d(input_channel, output_channel, 3, (4, 4), 1)
        self.write = nn.Linear(output_channel, num_class)

    def forward(self, picture, text):
        return self.write(self.look(picture).relu().mean(2).permute(0, 2, 1).contiguous())
"""
CONFIGURATION = f"""
network_params: {{input_channel: 1, output_channel: 8, hidden_size: 8}}
imgH: 32
lang_list: [en, de]
character_list: "{LETTERS}"
"""


@pytest.fixture(scope="module")
def engine():
    """The module ``easyocr``, with the stand-in for CRAFT."""
    import torch
    from torch import nn
    from torch.nn.functional import avg_pool2d

    importlib.import_module("torchvision_shim")
    import easyocr.detection

    class Dark(nn.Module):
        """Scores at half the size: whether it is dark, and that neighbours do not go together.

        Black is not dark: EasyOCR pads pictures with it.
        """

        def __init__(self):
            super().__init__()
            self.sharpness = nn.Parameter(torch.tensor(8.0))

        def forward(self, pictures):
            grey = avg_pool2d(pictures.mean(1, keepdim=True), 2) * self.sharpness
            score = (-grey).sigmoid() * (grey + 1.4 * self.sharpness).sigmoid()
            return torch.cat([score, torch.zeros_like(score)], 1).permute(0, 2, 3, 1), None

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(easyocr.detection, "CRAFT", Dark)
        yield easyocr


@pytest.fixture(scope="module")
def directory(engine, tmp_path_factory):
    """EasyOCR's directory with all files of a language."""
    import torch

    root = tmp_path_factory.mktemp("easyocr")
    for name in ("model", "user_network"):
        (root / name).mkdir()
    finder = root / "model" / "craft_mlt_25k.pth"
    torch.save(_parallel(engine.detection.CRAFT()), finder)
    (root / "user_network" / "tiny.py").write_text(NETWORK)
    (root / "user_network" / "tiny.yaml").write_text(CONFIGURATION)
    space: dict[str, type] = {}
    exec(NETWORK, space)
    torch.manual_seed(0)
    model = space["Model"](1, 8, 8, len(LETTERS) + 1)
    torch.save(_parallel(model), root / "model" / "tiny.pth")
    known = engine.config.detection_models["craft"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(known, "md5sum", hashlib.md5(finder.read_bytes()).hexdigest())
        yield root


def _parallel(network):
    """The weights under the names that training on several GPUs gives them."""
    return {f"module.{name}": weight for name, weight in network.state_dict().items()}


@pytest.fixture(scope="module")
def model(load, directory):
    return load("easyocr", directory=str(directory), recogniser="tiny")


@pytest.fixture
def page():
    """Three bars where words would be: two in a row, one below."""
    picture = np.full((160, 320, 3), 255, np.uint8)
    for x1, y1, x2, y2 in ((40, 30, 110, 54), (190, 32, 280, 56), (60, 100, 240, 124)):
        picture[y1:y2, x1:x2] = 70
        picture[y1 + 8 : y2 - 8 : 2, x1 + 5 : x2 - 5 : 3] = 95
    return picture


def read(model, picture, **params):
    return model.predict([picture], [EasyOcrParams(**params)])[0]


def directly(engine, directory, picture, languages):
    """What EasyOCR itself answers: quads, texts and scores."""
    reader = engine.Reader(
        languages,
        gpu=False,
        model_storage_directory=str(directory / "model"),
        user_network_directory=str(directory / "user_network"),
        recog_network="tiny",
        download_enabled=False,
        verbose=False,
    )
    return reader.readtext(picture[:, :, ::-1].copy())


@pytest.mark.filterwarnings("ignore")
def test_equals_easyocr(model, engine, directory, page):
    """Texts, scores and places are EasyOCR's, in reading order, places as upright boxes."""
    result = read(model, page)
    expected = directly(engine, directory, page, ["en"])
    assert len(result.regions) == len(expected) == 3
    for quad, text, score in expected:
        xs, ys = zip(*quad, strict=True)
        box = tuple(map(float, (min(xs), min(ys), max(xs), max(ys))))
        [region] = [each for each in result.regions if each.bbox == box]
        assert region == TextRegion(text, box, pytest.approx(score))
    assert result.text == "\n".join(region.text for region in result.regions)


def test_words_are_where_the_bars_are(model, page):
    """Each bar is one region, row by row; a box lies around its bar."""
    boxes = [region.bbox for region in read(model, page).regions]
    bars = [(40, 30, 110, 54), (190, 32, 280, 56), (60, 100, 240, 124)]
    for box, bar in zip(boxes, bars, strict=True):
        assert box == pytest.approx(bar, abs=10)


def test_without_detail_only_the_text_is_told(model, page):
    """``detail`` 0 leaves out places and scores and changes no text."""
    full, short = read(model, page), read(model, page, detail=0)
    assert short.text == full.text
    assert {(region.bbox, region.confidence) for region in short.regions} == {(None, 1.0)}


def test_a_picture_without_text_has_no_regions(model):
    """Empty pictures of any size give an empty text and an empty list."""
    for size in ((1, 1), (5, 3), (1, 900), (900, 1), (200, 200)):
        result = read(model, np.full((*size, 3), 250, np.uint8))
        assert (result.text, result.regions) == ("", [])


def test_another_language_gets_a_reader_of_its_own(model, engine, directory, page):
    """A batch may name languages; the recogniser's own are read, others are 422."""
    results = model.predict([page, page], [EasyOcrParams(language=each) for each in ("deu", "eng")])
    assert [len(result.regions) for result in results] == [3, 3]
    assert model._reader.cache_info().currsize == 2
    with pytest.raises(InvalidParams, match="cannot read these languages together"):
        read(model, page, language="eng+fra")


def test_a_single_language_that_is_not_read_is_refused_as_one(load, directory, page):
    """A recogniser of one's own that does not know a language says so of that one."""
    model = load("easyocr", directory=str(directory), recogniser="tiny")
    with pytest.raises(InvalidParams, match="tiny recogniser does not read fr"):
        read(model, page, language="fra")


def test_confidence_leaves_out_what_is_less_sure(model, page):
    """Every word that is told has at least the score that was asked for."""
    scores = sorted(region.confidence for region in read(model, page).regions)
    assert scores
    least = scores[-1]
    assert {region.confidence for region in read(model, page, confidence=least).regions} == {least}
    if least < 1.0:
        assert read(model, page, confidence=1.0).regions == []


def test_scripts_that_do_not_mix_are_refused(engine, directory, page):
    """EasyOCR's own recognisers read one script and English."""
    model = EasyOcr(engine, EasyOcrSettings(directory=str(directory)), "cpu")
    for language in ("jpn+kor", "ru+de", "chi_sim+chi_tra"):
        with pytest.raises(InvalidParams, match="cannot read these languages together"):
            read(model, page, language=language)


def test_a_missing_file_is_named_at_once(load, directory, monkeypatch):
    """Without ``download`` nothing connects; the answer names the file and holds no path."""

    def refuse(*args):
        pytest.fail("a socket was opened")

    monkeypatch.setattr(socket, "socket", refuse)
    with pytest.raises(Unavailable) as caught:
        load("easyocr", directory=str(directory), language="jpn")
    assert caught.value.detail == (
        "easyocr needs the file japanese_g2.pth for ja: set plugins.ocr.easyocr.download to true, "
        "or put it into the model directory"
    )
    with pytest.raises(Unavailable, match=r"craft_mlt_25k\.pth"):
        load("easyocr", directory=str(directory / "elsewhere"))


def test_a_failed_download_is_named(load, directory, monkeypatch):
    """With ``download`` and no network the answer says that the file could not be fetched."""

    def unreachable(*args, **kwargs):
        raise OSError("no route to host")

    monkeypatch.setattr(socket, "create_connection", unreachable)
    with pytest.raises(Unavailable, match="could not be fetched"):
        load("easyocr", directory=str(directory), language="jpn", download=True)


def test_the_table_has_only_codes_of_easyocr(engine):
    """Every code that the table gives is one that EasyOCR knows."""
    codes = {language.easyocr for language in LANGUAGES} - {None}
    assert codes <= set(engine.config.all_lang_list)


def test_a_code_of_easyocr_alone_is_taken(engine, directory):
    """EasyOCR reads more languages than the table knows, under its own codes."""
    model = EasyOcr(engine, EasyOcrSettings(directory=str(directory)), "cpu")
    assert model.codes("abq+rus") == ("abq", "ru")
