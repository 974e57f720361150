"""What others wrote does nothing to a terminal, and is one line of a log."""

from __future__ import annotations

import pytest

import mataserver


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Löwe, 12 Straße", "Löwe, 12 Straße"),
        ("a\nb\r\tc", "a b  c"),
        ("\x1b[31mred\x9b0m\x7f", " [31mred 0m "),
        ("jpg\u202egnp\u2028", "jpg gnp "),
        ("", ""),
    ],
)
def test_printable(text, shown):
    """Each character that is obeyed is a space, and all others stay."""
    assert mataserver.printable(text) == shown
