"""Words of Tesseract's table, with the spaces of its text."""

from __future__ import annotations

from mataserver_ocr.tesseract_words import Word, words_of

HEADER = (
    "level\tpage_num\tblock_num\tpar_num\tline_num\tword_num\tleft\ttop\twidth\theight\tconf\ttext"
)


def table(*lines):
    """Return a table of lines of words, with its header and the rows of blocks and lines."""
    rows = [HEADER, "2\t1\t1\t0\t0\t0\t0\t0\t200\t100\t-1\t"]
    for number, words in enumerate(lines, start=1):
        rows.append(f"4\t1\t1\t1\t{number}\t0\t0\t0\t200\t20\t-1\t")
        rows += [
            f"5\t1\t1\t1\t{number}\t{place}\t{20 * place}\t7\t15\t9\t96.25\t{word}"
            for place, word in enumerate(words, start=1)
        ]
    return "\n".join(rows) + "\n"


def joined(*lines, text):
    """Return the lines as they are told."""
    told = {}
    for word in words_of(table(*lines), text):
        before = told.get(word.line)
        told[word.line] = word.text if before is None else before + " " * word.spaced + word.text
    return list(told.values())


def test_a_word_has_a_place_and_a_confidence():
    """The box is in pixels, the confidence 0 to 1; rows of blocks and lines are no words."""
    (word,) = words_of(table(["Gate"]), "Gate\n")
    assert word == Word("Gate", ("1", "1", "1"), (20, 7, 35, 16), 0.9625, spaced=False)
    assert words_of(table(), "") == words_of("", "") == []


def test_chinese_and_japanese_have_the_spaces_of_the_text():
    """Their characters are words of the table; around Latin ones the text has spaces."""
    lines = ["今天", "天", "气", "Dock", "12", "号"], ["港", "は", "朝", "、", "朝"]
    text = "今天天气 Dock 12 号\n\n港は朝、朝\n\f"
    assert joined(*lines, text=text) == ["今天天气 Dock 12 号", "港は朝、朝"]


def test_a_word_that_the_text_lacks_is_spaced():
    """It takes nothing of those behind it, nor do marks of direction before a word."""
    lines = ["One", "two", "three", "今", "天"], ["a", "b"]
    text = "One three今天\n\u200fa \u200fb\n"
    assert joined(*lines, text=text) == ["One two three今天", "a b"]


def test_spaces_that_the_engine_keeps_are_one():
    """With ``preserve_interword_spaces`` the text has as many as the page has room for."""
    assert joined(["12", "34"], text="12      34\n") == ["12 34"]
