"""The QR detector on drawn codes: turned, several, damaged, none."""

from __future__ import annotations

import base64
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from mataserver_opencv.character_sets import character_set
from mataserver_opencv.pixels import clipped
from mataserver_opencv.qr import QrParams, text_of

PICTURES = Path(__file__).parents[3] / "examples" / "pictures"
TEXTS = {"PALLET-0042", "https://example.org/item/7", "Aisle 5, shelf C"}


@pytest.fixture(scope="module")
def codes(load):
    return load("opencv-qr")


def found(model, image, **params):
    return model.predict([image], [QrParams(**params)])[0].detections


def drawn(text, *, angle=0.0, size=360, module=6, damage=0, encoder=None):
    """Draw a code on grey; return the picture and the box of its modules."""
    modules = (encoder or cv2.QRCodeEncoder.create()).encode(text)
    if damage:
        modules[10 : 10 + damage, 10 : 10 + damage] = 255
    side = module * len(modules)
    code = Image.fromarray(modules).resize((side, side), Image.Resampling.NEAREST).convert("RGBA")
    turned = code.rotate(angle, Image.Resampling.BICUBIC, expand=True)
    picture = Image.new("RGB", (size, size), (150, 150, 150))
    picture.paste(turned, ((size - turned.width) // 2, (size - turned.height) // 2), turned)
    half = (side / 2 - 2 * module) * (
        abs(np.cos(np.radians(angle))) + abs(np.sin(np.radians(angle)))
    )
    middle = size / 2
    return np.asarray(picture), (middle - half, middle - half, middle + half, middle + half)


@pytest.mark.parametrize("module", [4, 6, 8])
def test_a_box_reaches_to_the_outer_edges_of_its_pixels(codes, module):
    """A code that is drawn in whole pixels has exactly their box: none is left out."""
    image, box = drawn("https://example.org/pallet/42", module=module)
    (code,) = found(codes, image)
    assert code.bbox == pytest.approx(box, abs=0.01)


@pytest.mark.parametrize("angle", [0, 7, 30, 45, 90, 135, 180, 200, 315])
def test_a_turned_code_is_read_where_it_is(codes, angle):
    """The label is the text, and the box encloses the code at every angle."""
    image, box = drawn("https://example.org/pallet/42", angle=angle)
    (code,) = found(codes, image)
    assert (code.label, code.confidence) == ("https://example.org/pallet/42", 1.0)
    assert code.bbox == pytest.approx(box, abs=8)


def test_several_codes_are_all_read(codes, picture):
    """The three codes of the demo picture come from top to bottom with their texts."""
    detections = found(codes, picture("codes.jpg"))
    assert {code.label for code in detections} == TEXTS
    tops = [code.bbox[1] for code in detections]
    assert tops == sorted(tops)


def test_a_code_beside_an_unreadable_one_does_not_name_it(codes):
    """A damaged code keeps the label "qr" although a readable one lies next to it."""
    good, _ = drawn("neighbour", size=200)
    bad, _ = drawn("https://example.org/pallet/42", size=200, damage=12)
    labels = [code.label for code in found(codes, np.hstack([good, bad]))]
    assert sorted(labels) == ["neighbour", "qr"]


@pytest.mark.parametrize("seed", [16, 44, 52])
def test_codes_beside_an_unreadable_one_are_read(codes, seed):
    """The texts that were decoded in the whole picture stay: alone, some cannot be read again."""
    generator = np.random.default_rng(seed)
    damaged = int(generator.integers(4))
    texts = [f"https://example.org/pallet/{seed}-{i}" for i in range(4)]
    a, b, c, d = (
        drawn(
            text,
            size=260,
            module=int(generator.integers(3, 6)),
            angle=generator.uniform(0, 360),
            damage=12 if i == damaged else 0,
        )[0]
        for i, text in enumerate(texts)
    )
    labels = [
        code.label for code in found(codes, np.vstack([np.hstack([a, b]), np.hstack([c, d])]))
    ]
    assert sorted(labels) == sorted([*texts[:damaged], *texts[damaged + 1 :], "qr"])


def test_an_unreadable_code_is_labelled_qr(codes):
    """A code that is found but not decoded has half the confidence, and can be filtered out."""
    image, box = drawn("https://example.org/pallet/42", damage=12)
    (code,) = found(codes, image)
    assert (code.label, code.confidence) == ("qr", 0.5)
    assert code.bbox == pytest.approx(box, abs=8)
    assert found(codes, image, confidence=0.6) == []


def test_other_alphabets_are_read(codes):
    """A payload in UTF-8 comes back as it was written."""
    image, _ = drawn("Grüße, 日本")
    assert [code.label for code in found(codes, image)] == ["Grüße, 日本"]


@pytest.mark.parametrize("text", ["漢字テスト", "東京都千代田区"])
def test_the_kanji_mode_is_read(codes, text):
    """Japanese codes store two-byte characters in a mode of their own, in Shift JIS."""
    mode = cv2.QRCodeEncoder_Params()
    mode.mode = cv2.QRCodeEncoder_MODE_KANJI
    image, _ = drawn(text.encode("shift_jis"), encoder=cv2.QRCodeEncoder.create(mode))
    assert [code.label for code in found(codes, image)] == [text]


def test_a_payload_that_is_not_utf8_is_taken_as_latin1():
    """The standard's default alphabet stands in where UTF-8 does not fit."""
    assert text_of(b"Gr\xfc\xdfe") == "Grüße"
    assert text_of("Grüße".encode()) == "Grüße"


STATED = {
    "Καλημέρα": (
        21,
        "/vv8FtBunLt0tduorsFRB/qv4B4A5v+cJTsI0BxREk86JYB7M/hxMFISujo10g8uqbcF0X/sYIA=",
    ),
    "Hi Ж": (21, "/rv8FxBuprt1BduorsElB/qv4BkAawr/ZWq9uKl7M6dgKoB2i/o68EcsuqCl06IurIsFu5/hO4A="),
    "Привет мир": (
        45,
        (
            "/qEXawv8ENrA5JBui0fu5Lt1acMytduh0Ps7rsEiHHyBB/qqqqqv4AvvFWYALr3vwUxKTI8AHl6C2J2wwN3SKcn4lL7h"
            "fNxvjyCx1UorIS2VPVvqppW602ZsFp3PuQkIotX8nV6wkDX4yNzS5gDamLX66ftn/xxmhE7sW+qz693qaxCNEycXn6Q/"
            "qQ+5rUFu/Uq02nkfTvyrPgM4srg+BUSpzx6G3ZInkH/g8+rUOLk0UuaU+5ENMQOrbZCq7YmC18xOSuzz6SPssnmkX/1P"
            "/QBVvEwsW/gkq/vqMFkVEuUWuq//gx+t0WM0nRoupwl9ylsEmHOIi5/iNkZul4A="
        ),
    ),
    "票": (21, "/sP8EtBujrt1ZdunLsEFB/qv4AwALqRP4Gng1EvQmyS+8IBtO/kzcFhIupz10/ouossEH5/gs4A="),
    "簡": (21, "/pP8EBBunLt1tdunrsEFB/qv4AcALvxLzKn86UvLc6N2kIBiO/iTcF1KutKV0uousksE/5/lM4A="),
    "청": (21, "/gP8F5Buhrt0NduhrsFpB/qv4BsAD1MTTjKh5RERMo6unYB0j/o+0F8dutZF0KFuiZEEQr/lGoA="),
    "ﾃｱ": (21, "/tP8EZBujrt1NdulrsERB/qv4AUALqxOg2njzsoqj6yz1IBZO/ljcFrKurD909ousUsEC5/nc4A="),
}
"""Codes by segno that state ISO 8859-7, UTF-16 and, of version 7 in five blocks, Windows-1251.

Then GB18030, Big5, EUC-KR and Shift JIS, with bytes that are another text in UTF-8.
"""


def stated(text):
    """Return the modules of the code in ``STATED``, and its picture: six pixels a module."""
    side, packed = STATED[text]
    bits = np.unpackbits(np.frombuffer(base64.b64decode(packed), np.uint8))[: side * side]
    modules = np.where(bits.reshape(side, side), 0, 255).astype(np.uint8)
    square = np.pad(np.kron(modules, np.ones((6, 6), np.uint8)), 40, constant_values=255)
    return modules, np.repeat(square[..., None], 3, axis=2)


@pytest.mark.parametrize("text", STATED)
def test_a_code_that_states_its_characters(codes, text):
    """Its bytes are read in the character set that it states (ECI), not in a likelier one."""
    modules, image = stated(text)
    for turns in range(4):
        [code] = found(codes, np.rot90(image, turns).copy())
        assert (code.label, code.confidence) == (text, 1.0)
    assert character_set(modules[:, ::-1]) is None
    assert character_set(modules[:-1]) is None


def test_stated_characters_beside_an_unreadable_code(codes):
    """Of which code the modules are is unknown there, so the code is read again, alone."""
    _, image = stated("票")
    bad, _ = drawn("https://example.org/pallet/42", size=len(image), damage=12)
    assert sorted(code.label for code in found(codes, np.hstack([image, bad]))) == ["qr", "票"]


def test_pictures_without_codes_give_none(codes, picture):
    """Nothing is made up on a photograph or a receipt."""
    assert found(codes, picture("astronaut.jpg")) == []
    assert found(codes, picture("receipt.jpg")) == []


@pytest.mark.parametrize("size", [(1, 1), (1, 20_000), (20_000, 1), (64, 12_000)])
def test_any_size_is_taken(codes, size):
    """One pixel and a very wide picture are answered with an empty list."""
    assert found(codes, np.full((*size, 3), 90, np.uint8)) == []


def test_noise_is_answered(codes):
    """Random modules never raise, and boxes stay within the image."""
    generator = np.random.default_rng(3)
    for side in (40, 90, 160):
        modules = generator.integers(0, 2, (side // 5, side // 5), dtype=np.uint8) * 255
        image = np.repeat(np.kron(modules, np.ones((5, 5), np.uint8))[:, :, None], 3, axis=2)
        for code in found(codes, image):
            assert 0 <= code.bbox[0] < code.bbox[2] <= image.shape[1]
            assert 0 <= code.bbox[1] < code.bbox[3] <= image.shape[0]


def test_a_code_near_the_edge_is_read(codes):
    """A code with one module of margin to the picture's edge has its box inside the picture."""
    modules = cv2.QRCodeEncoder.create().encode("edge")[1:-1, 1:-1]
    image = np.repeat(np.kron(modules, np.ones((6, 6), np.uint8))[:, :, None], 3, axis=2)
    (code,) = found(codes, image)
    side = image.shape[0]
    assert code.bbox == pytest.approx((6, 6, side - 6, side - 6), abs=4)
    assert all(0 <= value <= side for value in code.bbox)


def test_a_box_that_leaves_the_image_is_clipped():
    """Corners outside the picture are cut at its edge; nothing is left of a box beside it."""
    assert clipped((-5.0, 2.0, 40.0, 9.0), height=8, width=30) == (0.0, 2.0, 30.0, 8.0)
    assert clipped((31.0, 2.0, 40.0, 9.0), height=8, width=30) is None


def test_the_demo_picture_can_be_drawn_again(codes, tmp_path):
    """``examples/pictures/make.py`` draws codes that read as the ones in the repository."""
    subprocess.run([sys.executable, PICTURES / "make.py", tmp_path], check=True)
    with Image.open(tmp_path / "codes.jpg") as image:
        labels = {code.label for code in found(codes, np.asarray(image))}
    assert labels == TEXTS
