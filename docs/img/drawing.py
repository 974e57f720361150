"""Draws answers of the server on pictures: boxes, masks, skeletons, maps, bars."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import numpy as np
import scene
from PIL import Image, ImageDraw, ImageFont

from mataserver_client import depth_array, mask_array

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from mataserver.results import InferResponse, Keypoint, Segment

    Box = tuple[float, float, float, float]
    Colour = tuple[int, int, int]

COLOURS: tuple[Colour, ...] = ((222, 60, 60), (30, 120, 220), (30, 160, 90), (190, 90, 200))
PAPER, INK = (255, 255, 255), (40, 40, 44)


@functools.cache
def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Return DejaVu Sans where it is installed, else the font inside Pillow."""
    try:
        return ImageFont.truetype("DejaVuSans.ttf", size)
    except OSError:
        return ImageFont.load_default(size)


def boxes(picture: Image.Image, found: Iterable[tuple[str, Box, int]]) -> Image.Image:
    """Return the picture with labelled boxes; the number of each chooses its colour."""
    drawn = picture.copy()
    draw = ImageDraw.Draw(drawn)
    for text, box, number in found:
        colour = COLOURS[number % len(COLOURS)]
        draw.rectangle(box, outline=colour, width=3)
        if text:
            _tag(draw, text, (box[0], box[1]), colour)
    return drawn


def _tag(draw: ImageDraw.ImageDraw, text: str, at: tuple[float, float], colour: Colour) -> None:
    """Write on a coloured ground above a corner, or below the picture's edge."""
    x1, y1, x2, y2 = draw.textbbox((0, 0), text, font=font(15))
    x = max(0, min(at[0], draw.im.size[0] - (x2 - x1) - 8))
    y = max(0, at[1] - (y2 - y1) - 8)
    draw.rectangle([x, y, x + x2 - x1 + 8, y + y2 - y1 + 8], colour)
    draw.text((x + 4 - x1, y + 4 - y1), text, PAPER, font=font(15))


def masks(picture: Image.Image, segments: Sequence[Segment]) -> Image.Image:
    """Return the picture with each segment's mask as a veil of its colour, and its label."""
    pixels = np.asarray(picture).astype(np.float32)
    for number, segment in enumerate(segments):
        inside = mask_array(segment)
        pixels[inside] = 0.35 * pixels[inside] + 0.65 * np.array(COLOURS[number])
    veiled = Image.fromarray(pixels.astype(np.uint8))
    return boxes(
        veiled, [(f"{s.label} {s.confidence:.2f}", s.bbox, n) for n, s in enumerate(segments)]
    )


def skeletons(picture: Image.Image, people: Sequence[Keypoint]) -> Image.Image:
    """Return the picture with each person's box, joints and bones."""
    drawn = boxes(picture, [(f"{p.label} {p.confidence:.2f}", p.bbox, 0) for p in people])
    draw = ImageDraw.Draw(drawn)
    for person in people:
        joints = dict(zip(scene.JOINTS, person.keypoints, strict=True))
        for a, b in scene.BONES:
            draw.line([joints[a][:2], joints[b][:2]], (250, 220, 80), width=4)
        for x, y, _ in person.keypoints:
            draw.ellipse([x - 5, y - 5, x + 5, y + 5], COLOURS[0], outline=PAPER)
    return drawn


def nearness(answer: InferResponse) -> Image.Image:
    """Return a depth map in colours, from dark blue (0, far) to yellow (1, near)."""
    near = depth_array(answer)[..., None]
    stops = np.array([[24, 22, 70], [130, 40, 120], [232, 96, 70], [252, 230, 120]], np.float32)
    place = np.clip(near, 0, 1) * (len(stops) - 1)
    low = np.minimum(place.astype(int), len(stops) - 2)[..., 0]
    mixed = stops[low] + (place - low[..., None]) * (stops[low + 1] - stops[low])
    return Image.fromarray(mixed.astype(np.uint8))


def bars(scores: Sequence[tuple[str, float]], size: tuple[int, int]) -> Image.Image:
    """Return a chart of scores in 0..1, a bar each."""
    chart = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(chart)
    step = size[1] // len(scores)
    for row, (label, score) in enumerate(scores):
        top, full = row * step + step // 4, size[0] - 170
        draw.text((12, top), label, INK, font=font(16))
        draw.rectangle([100, top, 100 + max(1, full * score), top + 20], COLOURS[1])
        draw.text((110 + full * score, top), f"{score:.2f}", INK, font=font(16))
    return chart


def lines(texts: Sequence[str], size: tuple[int, int]) -> Image.Image:
    """Return lines of text on white."""
    page = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(page)
    step = size[1] // (len(texts) + 1)
    for row, text in enumerate(texts):
        draw.text((14, step // 2 + row * step), text, INK, font=font(16))
    return page


def beside(*pictures: Image.Image) -> Image.Image:
    """Return pictures of one height in a row, a gap between them."""
    width = sum(each.width for each in pictures) + 8 * (len(pictures) - 1)
    row, x = Image.new("RGB", (width, pictures[0].height), PAPER), 0
    for each in pictures:
        row.paste(each, (x, 0))
        x += each.width + 8
    return row


def below(*pictures: Image.Image) -> Image.Image:
    """Return pictures of one width under each other."""
    column = Image.new("RGB", (pictures[0].width, sum(each.height for each in pictures)), PAPER)
    y = 0
    for each in pictures:
        column.paste(each, (0, y))
        y += each.height
    return column


def scaled(picture: Image.Image, height: int) -> Image.Image:
    """Return a picture at another height."""
    return picture.resize((round(picture.width * height / picture.height), height))
