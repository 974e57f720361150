"""PaddleOCR itself on tiny networks of our own: run by ``run.py``, in an environment that has it.

The detector takes what is dark for text, so PaddleOCR makes real boxes; the recogniser writes at
random what it reads.
"""

from __future__ import annotations

import io
import socket

import aiohttp
import numpy as np
import pytest
import yaml
from PIL import Image

from mataserver import InvalidParams, TextRegion, Unavailable, testing
from mataserver_ocr.languages import LANGUAGES
from mataserver_ocr.paddleocr import PaddleOcrParams, models_of, recogniser_for

LETTERS = list("0123456789abcdefghijklmnopqrstuvwxyz")
DECODE = {"DecodeImage": {"channel_first": False, "img_mode": "BGR"}}
DETECTION = {
    "PreProcess": {
        "transform_ops": [
            DECODE,
            {"DetResizeForTest": {"resize_long": 960}},
            {
                "NormalizeImage": {
                    "mean": [0.485, 0.456, 0.406],
                    "std": [0.229, 0.224, 0.225],
                    "scale": "1./255.",
                    "order": "hwc",
                }
            },
            {"ToCHWImage": None},
            {"KeepKeys": {"keep_keys": ["image", "shape"]}},
        ]
    },
    "PostProcess": {
        "name": "DBPostProcess",
        "thresh": 0.3,
        "box_thresh": 0.5,
        "max_candidates": 100,
        "unclip_ratio": 1.5,
    },
}
RECOGNITION = {
    "PreProcess": {
        "transform_ops": [
            DECODE,
            {"RecResizeImg": {"image_shape": [3, 48, 320]}},
            {"KeepKeys": {"keep_keys": ["image"]}},
        ]
    },
    "PostProcess": {"name": "CTCLabelDecode", "character_dict": LETTERS},
}
BARS = ((40, 30, 110, 54), (190, 32, 280, 56), (60, 100, 240, 124))


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """The models that read Latin letters and those that read Cyrillic, as PaddleX stores them."""
    root = tmp_path_factory.mktemp("paddle")
    for recogniser in ("PP-OCRv6", "eslav"):
        wanted = models_of(recogniser, "tiny")
        _save(root / wanted.detector, _detector(), [-1, 3, -1, -1], DETECTION)
        _save(root / wanted.recogniser, _recogniser(), [-1, 3, 48, -1], RECOGNITION)
    return root


def _detector():
    import paddle

    class Dark(paddle.nn.Layer):
        """Scores what is dark; black is not, as small pictures are padded with it."""

        def __init__(self):
            super().__init__()
            self.blur = paddle.nn.Conv2D(3, 1, 9, padding=4)
            self.blur.weight.set_value(paddle.full([1, 3, 9, 9], 1.0 / 243))
            self.blur.bias.set_value(paddle.zeros([1]))

        def forward(self, pictures):
            grey = self.blur(pictures)
            bright, visible = (paddle.nn.functional.sigmoid((grey - t) * 12.0) for t in (0.5, -1.5))
            return visible * (1.0 - bright)

    return Dark()


def _recogniser():
    import paddle

    class Random(paddle.nn.Layer):
        def __init__(self):
            super().__init__()
            self.look = paddle.nn.Conv2D(3, 16, (48, 8), stride=(48, 8))
            self.write = paddle.nn.Linear(16, len(LETTERS) + 2)

        def forward(self, pictures):
            columns = self.look(pictures).squeeze(2).transpose([0, 2, 1])
            return paddle.nn.functional.softmax(self.write(columns), axis=-1)

    paddle.seed(3)
    return Random()


def _save(path, network, shape, configuration):
    import paddle

    network.eval()
    given = paddle.static.InputSpec(shape, "float32", name="x")
    paddle.jit.save(network, str(path / "inference"), input_spec=[given])
    described = {"Global": {"model_name": path.name}, **configuration}
    (path / "inference.yml").write_text(yaml.safe_dump(described))


@pytest.fixture(scope="module")
def model(load, directory):
    return load("paddleocr", directory=str(directory), size="tiny", min_confidence=0.0)


@pytest.fixture
def page():
    """Three bars where words would be: two in a row, one below."""
    picture = np.full((160, 320, 3), 255, np.uint8)
    for x1, y1, x2, y2 in BARS:
        picture[y1:y2, x1:x2] = 70
        picture[y1 + 8 : y2 - 8 : 2, x1 + 5 : x2 - 5 : 3] = 95
    return picture


def read(model, picture, **params):
    return model.predict([picture], [PaddleOcrParams(**params)])[0]


def test_equals_paddleocr(model, directory, page):
    """Texts, scores and places are PaddleOCR's, in reading order, places as upright boxes."""
    import paddleocr

    wanted = models_of("PP-OCRv6", "tiny")
    pipeline = paddleocr.PaddleOCR(
        text_detection_model_name=wanted.detector,
        text_detection_model_dir=str(directory / wanted.detector),
        text_recognition_model_name=wanted.recogniser,
        text_recognition_model_dir=str(directory / wanted.recogniser),
        use_doc_orientation_classify=False,
        use_doc_unwarping=False,
        use_textline_orientation=False,
        device="cpu",
        cpu_threads=1,
    )
    [expected] = pipeline.predict(page[:, :, ::-1].copy())
    result = read(model, page)
    assert len(result.regions) == len(expected["rec_texts"]) == 3
    for text, score, box in zip(
        expected["rec_texts"], expected["rec_scores"], expected["rec_boxes"], strict=True
    ):
        [region] = [r for r in result.regions if r.bbox == tuple(map(float, box))]
        assert region == TextRegion(text, tuple(map(float, box)), pytest.approx(float(score)))
    assert result.text == "\n".join(region.text for region in result.regions)


def test_words_are_where_the_bars_are(model, page):
    """Each bar is one region, row by row; a box lies around its bar."""
    for region, bar in zip(read(model, page).regions, BARS, strict=True):
        assert region.bbox == pytest.approx(bar, abs=20)


@pytest.mark.parametrize("size", [(1, 1), (5, 3), (1, 900), (900, 1), (200, 200)])
def test_a_picture_without_text_has_no_regions(model, size):
    """Empty pictures of any size give an empty text and an empty list."""
    result = read(model, np.full((*size, 3), 250, np.uint8))
    assert (result.text, result.regions) == ("", [])


def test_the_least_confidence_is_a_setting(load, directory, page):
    """Lines below ``min_confidence`` are left out."""
    strict = load("paddleocr", directory=str(directory), size="tiny", min_confidence=1.0)
    assert read(strict, page).regions == []


def test_another_script_gets_models_of_its_own(model, page):
    """A batch may name languages; English stays with the first, Russian opens another one."""
    results = model.predict(
        [page] * 3, [PaddleOcrParams(language=each) for each in ("deu", "rus+eng", "eng")]
    )
    assert [len(result.regions) for result in results] == [3, 3, 3]
    assert results[0] == results[2]
    assert model._pipeline.cache_info().currsize == 2


def test_a_missing_model_is_named_at_once(load, model, directory, page, monkeypatch):
    """Without ``download`` nothing connects; the answer names the model and holds no path."""

    def refuse(*args):
        pytest.fail("a socket was opened")

    monkeypatch.setattr(socket, "socket", refuse)
    with pytest.raises(Unavailable) as caught:
        read(model, page, language="kor+eng")
    assert caught.value.detail == (
        "paddleocr needs the model korean_PP-OCRv5_mobile_rec: set plugins.ocr.paddleocr.download "
        "to true, or put it into the model directory"
    )
    with pytest.raises(Unavailable, match="PP-OCRv6_medium_det and PP-OCRv6_medium_rec"):
        load("paddleocr", directory=str(directory))


def test_scripts_that_do_not_mix_are_refused(model, page):
    """A recogniser reads one script and English."""
    with pytest.raises(InvalidParams, match="cannot read these languages together"):
        read(model, page, language="rus+jpn")


def test_every_model_is_one_of_paddleocrs_own():
    """The names that the table leads to are those that PaddleX knows, at every size."""
    from paddlex.inference.utils.official_models import ALL_MODELS

    scripts = {language.paddleocr for language in LANGUAGES} - {None}
    named = {
        name
        for each in scripts
        for size in ("medium", "small", "tiny")
        for name in models_of(each, size)
    }
    assert named <= set(ALL_MODELS)


@pytest.mark.parametrize(
    "code", ["en", "ch", "japan", "ru", "korean", "ar", "hi", "el", "th", "fr"]
)
def test_the_choice_is_paddleocrs_own(code):
    """For a language PaddleOCR itself would choose the same recogniser, and at the same size."""
    import paddleocr

    chosen = paddleocr.PaddleOCR._get_ocr_model_names(None, code, None)
    assert tuple(models_of(recogniser_for(code), "medium")) == chosen


async def test_it_is_pulled_and_served_by_a_child_process(
    directory, page, tmp_path, monkeypatch, capfd
):
    """Pulled over REST with nothing to install, it answers from a worker; Korean is 503.

    The worker does not keep the limit of threads of the server's own environment.
    """
    monkeypatch.setenv("OMP_THREAD_LIMIT", "1")
    buffer = io.BytesIO()
    Image.fromarray(page).save(buffer, "PNG")
    chosen = {"directory": str(directory), "size": "tiny", "min_confidence": 0.0}
    async with (
        testing.serving(
            tmp_path,
            entry_points=testing.installed("ocr"),
            engine="process",
            plugins={"ocr": {"paddleocr": chosen}},
        ) as served,
        aiohttp.ClientSession(served.url, headers=served.headers) as http,
    ):
        pull = await http.post("/v1/models/pull", json={"model": "paddleocr", "task": "ocr"})
        assert pull.status == 202, await pull.text()
        for language, status in (("german", 200), ("kor", 503)):
            answer = await http.post(
                "/v1/infer",
                params={"model": "paddleocr", "language": language},
                data=buffer.getvalue(),
                headers={"Content-Type": "image/png"},
            )
            body = await answer.json()
            assert answer.status == status, body
            assert len(body.get("regions", [])) == (3 if status == 200 else 0)
    assert "Cannot form a team" not in capfd.readouterr().err
