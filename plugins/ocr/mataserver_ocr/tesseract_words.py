"""Tesseract's words: the rows of its table, with the spaces of its plain text.

The table has each Chinese or Japanese character, or a few of them, as a word of its own; only the
text shows that there is no space between them.
"""

from __future__ import annotations

from typing import NamedTuple

COLUMNS = 12
"""Level, page, block, paragraph, line, word, left, top, width, height, confidence and text."""
WORD_LEVEL = "5"
"""The level of the rows that are words."""


SPACES = {"preserve_interword_spaces": "1"}
"""What Tesseract is told. The data of Chinese and Japanese says so too, and is heard alone or first
of several languages: as a second one, its characters would be spaced."""


class Word(NamedTuple):
    """A word.

    line:       its block, paragraph and line.
    box:        x1, y1, x2, y2 in pixels.
    confidence: 0 to 1.
    spaced:     whether there is a space before it, if it does not begin a line.
    """

    text: str
    line: tuple[str, ...]
    box: tuple[int, int, int, int]
    confidence: float
    spaced: bool


def words_of(table: str, text: str) -> list[Word]:
    """Return the words of a page's table (TSV) and plain ``text``, in Tesseract's order."""
    words: list[Word] = []
    at = 0
    for row in table.split("\n"):
        cells = row.split("\t", COLUMNS - 1)
        word = " ".join(cells[-1].split())
        if cells[0] != WORD_LEVEL or len(cells) < COLUMNS or not word:
            continue
        found = text.find(word, at)
        spaced = found != at  # a word that the text does not have here is spaced, too
        at = at if found < 0 else found + len(word)
        left, top, width, height = map(int, cells[6:10])
        box = (left, top, left + width, top + height)
        confidence = min(max(float(cells[10]) / 100, 0.0), 1.0)
        words.append(Word(word, tuple(cells[2:5]), box, confidence, spaced))
    return words
