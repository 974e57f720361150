"""What others wrote, as one line of a terminal or a log."""

from __future__ import annotations

CONTROLS = r"\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff"
"""What a name may not hold, for a pattern: what a terminal obeys, turns a text's direction, or ends
a line.

The joiners U+200C and U+200D are letters' and emoji's own, and stay.
"""


def printable(text: str) -> str:
    """Return a text with a space for each character that a terminal or a log would obey.

    These are control characters, ends of lines, and those of the direction of writing.
    """
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else " " for each in text)
