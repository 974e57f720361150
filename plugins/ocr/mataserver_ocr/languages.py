"""The languages that a client may request, with their names in each OCR engine.

One table: ISO 639-1 code, Tesseract's code (ISO 639-2/T, or its own), the English name, further
names, and each engine's name for it. The models inside RapidOCR's package are PP-OCRv6's
multilingual ones; a language counts as supported when the model's documentation lists it and its
alphabet is in the recogniser's dictionary. EasyOCR has its own code for each language, PaddleOCR a
recogniser for each script.
"""

from __future__ import annotations

from dataclasses import dataclass

from mataserver import InvalidParams


@dataclass(frozen=True, slots=True)
class Language:
    """One language: ``iso`` 639-1, ``tesseract``'s code, ``name`` in English.

    ``rapidocr`` is whether its models support it, ``easyocr`` its code there and ``paddleocr`` the
    name of its script's recogniser; None where the engine does not support it.
    """

    iso: str
    tesseract: str
    name: str
    rapidocr: bool
    easyocr: str | None
    paddleocr: str | None
    aliases: tuple[str, ...] = ()


_READ_BY_BOTH = """
af afr Afrikaans | az aze Azerbaijani | bs bos Bosnian | ca cat Catalan | cs ces Czech cze
cy cym Welsh wel | da dan Danish | de deu German ger | en eng English | es spa Spanish
et est Estonian | eu eus Basque baq | fi fin Finnish | fr fra French fre | ga gle Irish
gl glg Galician | hr hrv Croatian | hu hun Hungarian | id ind Indonesian | is isl Icelandic ice
it ita Italian | ja jpn Japanese japan jp | la lat Latin | lb ltz Luxembourgish
lt lit Lithuanian | lv lav Latvian | mi mri Maori mao | ms msa Malay may | mt mlt Maltese
nl nld Dutch dut | no nor Norwegian nb | oc oci Occitan | pl pol Polish | pt por Portuguese
qu que Quechua | ro ron Romanian rum | sk slk Slovak slo | sl slv Slovenian
sq sqi Albanian alb | sr_latn srp_latn Serbian_Latin rs_latin | sv swe Swedish | sw swa Swahili
tl tgl Tagalog fil | tr tur Turkish | uz uzb Uzbek
zh chi_sim Chinese ch zho chi zh_cn zh_hans ch_sim chinese_simplified
zh_tw chi_tra Chinese_Traditional chinese_cht zh_hant ch_tra
"""

_READ_BY_TESSERACT = """
am amh Amharic | ar ara Arabic | be bel Belarusian | bg bul Bulgarian | bn ben Bengali
el ell Greek gre | fa fas Persian per | gu guj Gujarati | he heb Hebrew | hi hin Hindi
hy hye Armenian arm | ka kat Georgian geo | kk kaz Kazakh | km khm Khmer | kn kan Kannada
ko kor Korean korean | lo lao Lao | mk mkd Macedonian mac | ml mal Malayalam | mn mon Mongolian
mr mar Marathi | my mya Burmese bur | ne nep Nepali | pa pan Punjabi | ru rus Russian
si sin Sinhala | sr srp Serbian rs_cyrillic | ta tam Tamil | te tel Telugu | th tha Thai
uk ukr Ukrainian | ur urd Urdu | vi vie Vietnamese
"""

_READ_BY_EASYOCR = """
af ar az be bg bn bs cs cy da de en es et fa fr ga hi hr hu id is it ja kn ko la lt lv mi mn mr ms
mt ne nl no oc pl pt ro ru sk sl sq sv sw ta te th tl tr uk ur uz vi
"""
_EASYOCR = frozenset(_READ_BY_EASYOCR.split())
_EASYOCR_OWN = {"zh": "ch_sim", "zh_tw": "ch_tra", "sr": "rs_cyrillic", "sr_latn": "rs_latin"}

MULTILINGUAL = "PP-OCRv6"
"""PaddleOCR's recogniser of Chinese, Japanese and Latin letters; RapidOCR has a smaller one."""

ARABIC = "arabic"
"""PaddleOCR's recogniser of Arabic letters, which are read from right to left."""
EASYOCR_ARABIC = frozenset({"ar", "fa", "ug", "ur"})
"""EasyOCR's codes of the languages in Arabic letters, as its own ``arabic_lang_list``."""

_PADDLEOCR = {
    **dict.fromkeys(("be", "ru", "uk"), "eslav"),
    **dict.fromkeys(("bg", "kk", "mk", "mn", "sr"), "cyrillic"),
    **dict.fromkeys(("ar", "fa", "ur"), ARABIC),
    **dict.fromkeys(("hi", "mr", "ne"), "devanagari"),
    "el": "el",
    "ko": "korean",
    "ta": "ta",
    "te": "te",
    "th": "th",
}


def _rows(table: str, *, rapidocr: bool) -> list[Language]:
    rows = [row.split() for row in table.strip().replace("\n", "|").split("|")]
    return [
        Language(
            iso,
            code,
            name.replace("_", " "),
            rapidocr,
            _EASYOCR_OWN.get(iso, iso if iso in _EASYOCR else None),
            MULTILINGUAL if rapidocr else _PADDLEOCR.get(iso),
            tuple(more),
        )
        for iso, code, name, *more in rows
    ]


LANGUAGES = tuple(_rows(_READ_BY_BOTH, rapidocr=True) + _rows(_READ_BY_TESSERACT, rapidocr=False))
"""All languages with a known name."""


def _normalized(code: str) -> str:
    return code.strip().lower().replace("-", "_").replace(" ", "_")


_BY_NAME = {
    _normalized(name): language
    for language in LANGUAGES
    for name in (language.iso, language.tesseract, language.name, *language.aliases)
}


def split_codes(codes: str) -> list[str]:
    """Split ``"eng+deu"`` or ``"en, de"`` into its codes. Raises ``InvalidParams`` if empty."""
    found = [part.strip() for part in codes.replace(",", "+").split("+") if part.strip()]
    if not found:
        raise InvalidParams("params.language: at least one language code is needed")
    return found


def find(code: str) -> Language | None:
    """Look up one language by any of its names, in any case; None when it is unknown."""
    return _BY_NAME.get(_normalized(code))


def unknown_language(code: str) -> InvalidParams:
    """Return the error for a code that no table contains."""
    return InvalidParams(
        f"params.language: unknown language '{code[:32]}'; use a code such as 'eng', 'en' or 'jpn'"
    )
