"""The character set that a QR code states (ECI, ISO/IEC 18004): OpenCV returns its bytes alone.

The statement begins the code's data, so the first two data bytes of its modules are enough. Those
lie in the last four columns, below the finder pattern, where nothing else is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

_MASKS: tuple[Callable[[int, int], int], ...] = (
    lambda row, column: (row + column) % 2,
    lambda row, _: row % 2,
    lambda _, column: column % 3,
    lambda row, column: (row + column) % 3,
    lambda row, column: (row // 2 + column // 3) % 2,
    lambda row, column: row * column % 2 + row * column % 3,
    lambda row, column: (row * column % 2 + row * column % 3) % 2,
    lambda row, column: ((row + column) % 2 + row * column % 3) % 2,
)
"""By their numbers: a module is inverted where the value is 0."""
_FORMAT_MASK = 0b10101
"""What the first five bits of the format are combined with: two of the level, three of the mask."""
_BLOCKS = tuple(
    tuple(int(count) for count in line.split())
    for line in """\
1 1 1 2 2 4 4 4 5 5 5 8 9 9 10 10 11 13 14 16 17 17 18 20 21 23 25 26 28 29 31 33 35 37 38 \
40 43 45 47 49
1 1 1 1 1 2 2 2 2 4 4 4 4 4 6 6 6 6 7 8 8 9 9 10 12 12 12 13 14 15 16 17 18 19 19 20 21 22 \
24 25
1 1 2 4 4 4 5 6 8 8 11 11 16 16 18 16 19 21 25 25 25 34 30 32 35 37 40 42 45 48 51 54 57 60 \
63 66 70 74 77 81
1 1 2 2 4 4 6 6 8 8 8 10 12 16 12 17 16 18 21 20 23 23 25 27 29 34 34 35 38 40 43 45 48 51 \
53 56 59 62 65 68
""".splitlines()
)
"""The number of blocks of the versions 1 to 40, by level (M, L, H, Q): their bytes alternate."""
_SMALLEST, _STEP = 21, 4
"""The modules of a side of version 1, and how many each version has more."""
_BELOW_FINDER = 9
_ECI_MODE = "0111"
_CHARACTER_SETS = {
    0: "cp437", 1: "iso-8859-1", 2: "cp437", 3: "iso-8859-1", 20: "cp932", 21: "cp1250",
    22: "cp1251", 23: "cp1252", 24: "cp1256", 25: "utf-16-be", 26: "utf-8", 27: "ascii",
    28: "big5", 29: "gb18030", 30: "euc_kr",
    **{number: f"iso-8859-{number - 2}" for number in (*range(4, 14), *range(15, 19))},
}  # fmt: skip


def character_set(modules: Any) -> str | None:
    """Return the character set that a code states; None if it states none, or an unknown one.

    ``modules`` are a square ``[n, n]``, upright and without a margin, 0 for black.
    """
    black = modules == 0
    version, rest = divmod(len(black) - _SMALLEST, _STEP)
    if rest or not 0 <= version < len(_BLOCKS[0]) or black.shape[0] != black.shape[1]:
        return None
    level, mask = divmod(int("".join(str(int(bit)) for bit in black[8, :5]), 2) ^ _FORMAT_MASK, 8)
    bits = _last_columns(black, mask)
    second = 8 * _BLOCKS[level][version]  # the first byte of each block comes before it
    start = bits[:8] + bits[second : second + 8]
    if start[:4] != _ECI_MODE or start[4] == "1":  # a number of more than a byte
        return None
    return _CHARACTER_SETS.get(int(start[4:12], 2))


def _last_columns(black: Any, mask: int) -> str:
    """Return the bits of the last four columns: two of them upwards, two downwards."""
    size = len(black)
    up = [(row, size - 1) for row in range(size - 1, _BELOW_FINDER - 1, -1)]
    down = [(row, size - 3) for row in range(_BELOW_FINDER, size)]
    places = [(row, column) for row, right in up + down for column in (right, right - 1)]
    return "".join(str(int(bool(black[place]) != (_MASKS[mask](*place) == 0))) for place in places)
