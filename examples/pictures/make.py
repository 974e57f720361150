"""Draw the demo pictures of this project: receipt.jpg (from receipt.txt) and codes.jpg.

Run it with ``python make.py [FOLDER]``; it needs Pillow, numpy and opencv-python-headless.
"""

from __future__ import annotations

import sys
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

HERE = Path(__file__).parent
CODES = {"PALLET-0042": -18, "https://example.org/item/7": 0, "Aisle 5, shelf C": 32}
"""The texts of the codes, each with its rotation in degrees anticlockwise."""


def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    try:
        return ImageFont.truetype("DejaVuSans.ttf", size)
    except OSError:  # DejaVu is not installed: the font inside Pillow
        return ImageFont.load_default(size)


def table(width: int, height: int, colour: tuple[int, int, int]) -> Image.Image:
    """Return a plain surface with reproducible grain."""
    grain = np.random.default_rng(7).normal(0, 6, (height, width, 1))
    return Image.fromarray(np.clip(np.array(colour) + grain, 0, 255).astype(np.uint8))


def receipt(lines: list[str]) -> Image.Image:
    paper = Image.new("RGBA", (430, 90 + 58 * len(lines)), (250, 248, 240, 255))
    draw = ImageDraw.Draw(paper)
    for row, line in enumerate(lines):
        draw.text((36, 46 + 58 * row), line, font=font(30), fill=(25, 25, 30))
    paper = paper.rotate(3, resample=Image.Resampling.BICUBIC, expand=True)
    picture = table(640, 720, (96, 74, 58))
    picture.paste(paper, (320 - paper.width // 2, 360 - paper.height // 2), paper)
    return picture


def codes(texts: dict[str, int]) -> Image.Image:
    picture = table(960, 420, (176, 142, 98))
    for column, (text, angle) in enumerate(texts.items()):
        modules = cv2.QRCodeEncoder.create().encode(text)  # with its quiet zone of two modules
        side = 6 * len(modules)
        label = Image.fromarray(modules).resize((side, side), Image.Resampling.NEAREST)
        label = label.convert("RGBA").rotate(angle, Image.Resampling.BICUBIC, expand=True)
        middle = 160 + 320 * column
        picture.paste(label, (middle - label.width // 2, 210 - label.height // 2), label)
    return picture


if __name__ == "__main__":
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else HERE
    lines = (HERE / "receipt.txt").read_text(encoding="utf-8").splitlines()
    receipt(lines).save(folder / "receipt.jpg", quality=85)
    codes(CODES).save(folder / "codes.jpg", quality=85)
