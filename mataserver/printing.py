"""What others wrote, as one line of a terminal or a log."""

from __future__ import annotations


def printable(text: str) -> str:
    """Return a text with a space for each character that a terminal or a log would obey.

    These are control characters, ends of lines, and those of the direction of writing.
    """
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else " " for each in text)
