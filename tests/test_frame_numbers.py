"""The numbers of H.264's frames: what is a loss, and what an encoder that numbers wrongly."""

from __future__ import annotations

import pytest

from mataserver.media.h264 import FrameNumbers

BASELINE = "01000010" + "0" * 16 + "1" + "1" + "011" + "1" + "0"
"""A sequence's parameters: numbers of 4 bits, order of kind 2, no gaps."""


def unit(head, bits):
    """Return a unit with its start code."""
    bits += "1"
    data = int(bits.ljust(-(-len(bits) // 8) * 8, "0"), 2).to_bytes(-(-len(bits) // 8), "big")
    return b"\x00\x00\x01" + bytes([head]) + data.replace(b"\x00\x00", b"\x00\x00\x03")


PARAMETERS = unit(0x67, BASELINE)


def frame(number, *, head=0x41):
    """Return the slice of a frame that others need."""
    return unit(head, "1" * 3 + f"{number:04b}")


def key(number=0):
    """Return an IDR frame."""
    return frame(number, head=0x65)


def gaps(numbers, groups):
    """Return where gaps are seen: the group, and the frame in it."""
    return [
        (group, place)
        for group, found in enumerate(groups)
        for place, packet in enumerate(found)
        if numbers.is_behind_gap(packet, is_key=place == 0)
    ]


@pytest.mark.parametrize("begin", [key(), frame(0)], ids=["IDR", "no IDR"])
def test_an_encoder_that_numbers_wrongly(begin):
    """Behind its key frames the numbers go on elsewhere: three times, then it is believed."""
    group = [begin, frame(5), frame(6)]
    behind_key = [(0, 1), (1, 1)] if begin == key() else [(0, 1), (1, 0), (1, 1), (2, 0)]
    assert gaps(FrameNumbers(PARAMETERS), [group] * 9) == behind_key


def test_frames_that_are_lost_in_every_group():
    """That is a loss, however often, and at first also right behind the key frame."""
    numbers = FrameNumbers(PARAMETERS)
    later = [key(), frame(1), frame(3), frame(4)]
    assert gaps(numbers, [later] * 9) == [(group, 2) for group in range(9)]
    at_once = [key(), frame(2), frame(3)]
    assert gaps(numbers, [at_once, at_once, later] * 3) == [
        (group, 2 if group % 3 == 2 else 1) for group in range(9)
    ]


def test_only_a_few_units_before_a_slice_are_read():
    """Parameters by the thousand are no work; the frame behind them says nothing."""
    packets = [key(), frame(1), PARAMETERS * 1_000 + frame(9), frame(3), frame(5)]
    assert gaps(FrameNumbers(PARAMETERS), [packets]) == [(0, 4)]


LISTS = "1" + "1000010001" + "1" * 17 + "0" * 4 + "1" * 65 + "0"
"""Eight lists: one that ends at once, two whole ones, and five that are not told."""
ORDERS = ["100100", "010" + "111" + "011" + "1010", "011"]
"""How the order of the frames is told: kinds 0 to 2."""


def high(colour, lists="0"):
    """Return the first parameters of a profile that tells its colours."""
    return "01100100" + "0" * 16 + "1" + colour + "11" + "0" + lists


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(
    "begin",
    ["01000010" + "0" * 16 + "1", high("010"), high("010", LISTS), high("001000", LISTS + "0" * 4)],
    ids=["baseline", "high", "lists", "4:4:4"],
)
def test_what_stands_before_the_size_of_a_number(begin, order):
    """Numbers of 6 bits, whose size is behind other parameters, each of a length of its own."""
    numbers = FrameNumbers(unit(0x67, begin + "011" + order + "010" + "0"))
    packets = [unit(0x65, "111000000"), unit(0x41, "111000001"), unit(0x41, "111000011")]
    assert gaps(numbers, [packets]) == [(0, 2)]


@pytest.mark.parametrize(
    "parameters",
    [
        unit(0x67, BASELINE[:-1] + "1"),
        unit(0x67, high("001001") + "1" + "011" + "010" + "0"),
        unit(0x67, BASELINE[:20]),
        b"",
    ],
    ids=["gaps are allowed", "each colour is a picture", "damaged", "none"],
)
def test_parameters_by_which_nothing_is_lost(parameters):
    """Where a number may be missing, or is not known, no frame is left out for it."""
    assert gaps(FrameNumbers(parameters), [[key(), frame(1), frame(9)]]) == []


def test_a_slice_that_is_cut_off():
    """It says nothing: the decoder notices it by itself."""
    packets = [key(), frame(1), b"\x00\x00\x01\x41", frame(2), frame(4)]
    assert gaps(FrameNumbers(PARAMETERS), [packets]) == [(0, 4)]
