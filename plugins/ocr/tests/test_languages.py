"""The language table: every name leads to one language, and the claims about RapidOCR hold."""

from __future__ import annotations

from pathlib import Path

import pytest

from mataserver import InvalidParams
from mataserver_ocr import languages
from mataserver_ocr.rapidocr import RECOGNISER, check_language

LETTERS = {
    "af": "êëïôû", "az": "çəğıöşü", "bs": "čćđšž", "ca": "àçèéíïòóúü", "cs": "áčďéěíňóřšťúůýž",
    "cy": "âêîôûŵŷ", "da": "æøå", "de": "äöüß", "en": "", "es": "áéíñóúü¿", "et": "äöõüšž",
    "eu": "ñü", "fi": "äöå", "fr": "àâæçéèêëîïôœùûüÿ«»", "ga": "áéíóú", "gl": "áéíñóúü",
    "hr": "čćđšž", "hu": "áéíóöőúüű", "id": "", "is": "áðéíóúýþæö", "it": "àèéìíòóù",
    "ja": "あいうえおアイウエオ日本語漢字東京。「」ー", "la": "āēīōū", "lb": "äéë",
    "lt": "ąčęėįšųūž", "lv": "āčēģīķļņšūž", "mi": "āēīōū", "ms": "", "mt": "ċġħż", "nl": "éëïóö",
    "no": "æøå", "oc": "àçèéíòóú", "pl": "ąćęłńóśźż", "pt": "ãáâàçéêíõóôú", "qu": "ñ",
    "ro": "ăâîșț", "sk": "áäčďéíĺľňóôŕšťúýž", "sl": "čšž", "sq": "çë", "sr_latn": "čćđšž",
    "sv": "åäö", "sw": "", "tl": "ñ", "tr": "çğıöşü", "uz": "", "zh": "中文简体汉字北京上海。",
    "zh_tw": "中文繁體漢字臺北",
}  # fmt: skip
"""The letters beyond ASCII of each language (samples of the scripts without an alphabet)."""


@pytest.mark.parametrize(
    ("given", "iso"),
    [
        ("eng", "en"), ("en", "en"), ("English", "en"), ("ENG", "en"),
        ("jpn", "ja"), ("ja", "ja"), ("japan", "ja"),
        ("ch", "zh"), ("chi_sim", "zh"), ("zh-CN", "zh"), ("chinese_cht", "zh_tw"),
        ("zh-TW", "zh_tw"),
        ("ger", "de"), ("deu", "de"), ("german", "de"), ("fre", "fr"), ("korean", "ko"),
    ],
)  # fmt: skip
def test_every_engines_name_leads_to_the_language(given, iso):
    """ISO codes, Tesseract's and Paddle's names and English names are all understood."""
    language = languages.find(given)
    assert language is not None
    assert language.iso == iso


def test_no_name_is_given_twice():
    """A name that two languages claimed would lead to the wrong one."""
    claimed = [
        {
            name.lower().replace(" ", "_")
            for name in (one.iso, one.tesseract, one.name, *one.aliases)
        }
        for one in languages.LANGUAGES
    ]
    assert sum(map(len, claimed)) == len(set().union(*claimed))


@pytest.mark.parametrize(
    ("given", "codes"),
    [
        ("jpn", ("jpn", "ja", "PP-OCRv6")), ("zh", ("chi_sim", "ch_sim", "PP-OCRv6")),
        ("ch_tra", ("chi_tra", "ch_tra", "PP-OCRv6")), ("sr", ("srp", "rs_cyrillic", "cyrillic")),
        ("rs_latin", ("srp_latn", "rs_latin", "PP-OCRv6")), ("ru", ("rus", "ru", "eslav")),
        ("kor", ("kor", "ko", "korean")), ("fi", ("fin", None, "PP-OCRv6")),
        ("heb", ("heb", None, None)), ("vie", ("vie", "vi", None)),
    ],
)  # fmt: skip
def test_each_engine_has_a_name_for_it(given, codes):
    """The table gives Tesseract's code, EasyOCR's and PaddleOCR's recogniser, or says none."""
    language = languages.find(given)
    assert language is not None
    assert (language.tesseract, language.easyocr, language.paddleocr) == codes


def test_several_languages_are_split():
    """Tesseract's plus sign and a comma both separate; nothing between them is an error."""
    assert languages.split_codes("eng+deu") == ["eng", "deu"]
    assert languages.split_codes(" en, de ") == ["en", "de"]
    with pytest.raises(InvalidParams, match="at least one"):
        languages.split_codes(" + ")


def test_rapidocr_has_the_letters_of_every_language_it_claims():
    """Each accepted language's letters are in the dictionary of the recogniser in the package."""
    import onnxruntime
    import rapidocr

    model = Path(rapidocr.__path__[0]) / "models" / RECOGNISER
    session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    known = set(session.get_modelmeta().custom_metadata_map["character"].splitlines())
    claimed = {one.iso for one in languages.LANGUAGES if one.rapidocr}
    assert claimed == set(LETTERS)
    missing = {iso: set(letters) - known for iso, letters in LETTERS.items()}
    assert {iso: letters for iso, letters in missing.items() if letters} == {}


@pytest.mark.parametrize("code", ["ar", "rus", "Greek", "kor", "tha", "vie", "eng+hin"])
def test_rapidocr_refuses_scripts_it_cannot_read(code):
    """A language outside the models is 422 and the answer says what they read."""
    with pytest.raises(InvalidParams, match="Latin letters") as caught:
        check_language(code)
    assert caught.value.status == 422


@pytest.mark.parametrize("code", ["klingon", "en+xx", "../eng", "-l"])
def test_an_unknown_code_is_refused(code):
    """A code of no table is 422 and the answer names the parameter."""
    with pytest.raises(InvalidParams, match=r"params\.language: unknown"):
        check_language(code)
