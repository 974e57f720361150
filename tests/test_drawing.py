"""Pictures with results drawn in, looked at pixel by pixel."""

from __future__ import annotations

import io
import itertools
import json
import re

import numpy as np
import pytest
from PIL import Image

import mataserver
from mataserver import results as r
from mataserver.contract.envelope import Envelope
from mataserver.engines.decoding import to_json
from mataserver.engines.encoding import encode_body
from mataserver.engines.work import Outcome, Timing
from mataserver.media.annotator import colour_of
from mataserver.media.drawing import draw

WIDTH, HEIGHT = 320, 240
BOX = (80.0, 60.0, 240.0, 200.0)
MASK = np.zeros((HEIGHT, WIDTH), bool)
MASK[60:200, 80:240] = True
DEPTH = np.tile(np.linspace(0.0, 9.0, 32, dtype=np.float32), (24, 1))

ANSWERS = {
    "detect": r.DetectResult([r.Detection("cat", 0.9, BOX), r.Detection("dog", 0.5, BOX)]),
    "track": r.DetectResult([r.Detection("cat", 0.9, BOX, track_id=7)]),
    "segment": r.SegmentResult([r.Segment("cat", 0.9, BOX, MASK), r.Segment("dog", 0.8, BOX)]),
    "classify": r.ClassifyResult([r.Classification("cat", 0.9)]),
    "pose": r.PoseResult([r.Keypoint("cat", 0.9, BOX, [(120.0, 100.0, 0.8), (9.0, 9.0, 0.0)])]),
    "ocr": r.OcrResult("cat", [r.TextRegion("cat", BOX, 0.9)]),
    "text": r.OcrResult("cat\ndog", [r.TextRegion("cat", None, 0.9)]),
    "depth": r.DepthResult(DEPTH),
    "vlm": r.VlmResult("a cat\non a mat", detections=[r.Detection("cat", 1.0, BOX)]),
    "embed": r.EmbedResult(np.full(4, 0.5, np.float32)),
}


def frame(grey=128):
    """Return a grey frame as a JPEG."""
    buffer = io.BytesIO()
    Image.new("RGB", (WIDTH, HEIGHT), (grey,) * 3).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def drawn(result):
    """Return the pixels of the grey frame with a result."""
    picture = Image.open(io.BytesIO(draw(frame(), result)))
    assert (picture.format, picture.size) == ("JPEG", (WIDTH, HEIGHT))
    return np.asarray(picture).astype(int)


def changed(pixels):
    """Return where pixels are no longer grey."""
    return np.abs(pixels - 128).max(axis=-1) > 40


def like(pixels, colour):
    """Return the share of pixels that have about a colour."""
    return (np.abs(pixels - np.array(colour)).max(axis=-1) < 60).mean()


@pytest.mark.parametrize("task", ["detect", "track", "segment", "pose", "vlm"])
def test_boxes(task):
    """The four sides of a box have the colour of its label, and a label stands above it."""
    pixels = drawn(ANSWERS[task])
    colour = colour_of("dog" if task in {"detect", "segment"} else "cat")
    assert like(pixels[100:160, 80:82], colour) > 0.9
    assert like(pixels[100:160, 239:241], colour) > 0.9
    assert like(pixels[199:201, 150:230], colour) > 0.9
    assert changed(pixels[45:58, 80:110]).mean() > 0.5
    assert not changed(pixels[210:230, 260:310]).any()


def test_a_label_at_the_right_edge():
    """A label that is wider than what is left of the picture ends at its edge, uncut."""
    box = (300.0, 60.0, 318.0, 200.0)
    whole, cut = (drawn(r.DetectResult([r.Detection(name, 0.9, box)])) for name in ("a" * 20, "a"))
    ground = [changed(pixels[44:58]).any(axis=0) for pixels in (whole, cut)]
    assert ground[0].sum() > ground[1].sum() + 60
    dark = (whole[44:58].max(axis=-1) < 60).any(axis=0).nonzero()[0]
    assert dark.max() < WIDTH - 1


def test_masks():
    """A mask tints what it covers and nothing else; a frame under it still shows."""
    pixels = drawn(ANSWERS["segment"])
    tint = 128 * 0.55 + np.array(colour_of("cat")) * 0.45
    assert like(pixels[90:190, 100:230], tint) > 0.9
    assert not changed(pixels[60:200, 250:300]).any()


def test_keypoints():
    """A keypoint is a dot; one without confidence is not drawn."""
    pixels = drawn(ANSWERS["pose"])
    assert like(pixels[99:102, 119:122], colour_of("cat")) > 0.9
    assert not changed(pixels[7:12, 7:12]).any()


def test_depth():
    """Depth goes from blue to red over the whole frame."""
    pixels = drawn(ANSWERS["depth"])
    assert like(pixels[:, :6], (0, 0, 255)) > 0.9
    assert like(pixels[:, -6:], (255, 0, 0)) > 0.9
    flat = r.DepthResult(np.zeros((4, 4), np.float32))
    assert like(drawn(flat), (0, 0, 255)) > 0.9


@pytest.mark.parametrize("task", ["classify", "text", "vlm"])
def test_text_in_the_corner(task):
    """Classes and text that has no place stand in the upper left corner."""
    assert changed(drawn(ANSWERS[task])[4:14, 4:24]).mean() > 0.5


def test_text_in_its_place():
    """Text that has a place stands there, and not in the corner."""
    pixels = drawn(ANSWERS["ocr"])
    assert like(pixels[100:160, 80:82], colour_of("text")) > 0.9
    assert not changed(pixels[4:14, 4:24]).any()


def test_labels_of_lines_hide_no_line():
    """Lines that stand close to each other are labelled where no other line is, nor a label."""
    lines = [(40.0, 20.0 + 24 * n, 150.0, 40.0 + 24 * n) for n in range(6)]
    found = [r.TextRegion(f"Lemon cake {n}", box, 0.9) for n, box in enumerate(lines)]
    pixels = drawn(r.OcrResult("", found))
    for x1, y1, x2, y2 in np.array(lines, int):
        assert not changed(pixels[y1 + 3 : y2 - 2, x1 + 3 : x2 - 2]).any()
    # The first has room above it; the others stand at the right of their lines.
    assert changed(pixels[6:18, 42:100]).mean() > 0.5
    for _, y1, x2, y2 in np.array(lines[1:], int):
        assert changed(pixels[y1 + 6 : y2 - 6, x2 + 8 : x2 + 50]).mean() > 0.5


def test_a_label_without_a_free_place():
    """A line as wide and high as the picture is labelled all the same."""
    whole = r.TextRegion("cat", (0.0, 0.0, WIDTH - 1.0, HEIGHT - 1.0), 0.9)
    assert changed(drawn(r.OcrResult("cat", [whole]))[4:14, 4:20]).mean() > 0.5


def test_long_text():
    """Long text is broken into lines and cut, so that it never covers a whole picture."""
    pixels = drawn(r.VlmResult("a cat " * 1000))
    assert changed(pixels[4:180, 4:150]).mean() > 0.4
    assert not changed(pixels[210:]).any()


def test_nothing_to_draw():
    """An embedding changes nothing."""
    assert not changed(drawn(ANSWERS["embed"])).any()


@pytest.mark.parametrize(
    "box", [(-50.0, -50.0, 500.0, 500.0), (300.0, 10.0, 20.0, 5.0), (400.0, 300.0, 500.0, 400.0)]
)
def test_boxes_outside_the_frame(box):
    """A box that reaches beyond the frame, or is turned over, does no harm."""
    drawn(r.DetectResult([r.Detection("ünïcode 猫", 0.5, box)]))


@pytest.mark.parametrize("task", sorted(ANSWERS))
def test_translated_bodies(task):
    """A body in MessagePack becomes exactly the JSON that the worker would have encoded."""
    envelope = Envelope(task, "org/model")
    packed, plain = (
        Outcome(encode_body(ANSWERS[task], form, envelope), Timing()).whole()
        for form in ("msgpack", "json")
    )
    assert untimed(to_json(packed)) == untimed(plain)


def untimed(body):
    """Return a body in JSON without its time."""
    return re.sub(rb'"timestamp":[\d.]+', b"", body)


def test_a_turned_box():
    """The four corners of a turned box are joined, and no upright box is drawn around them."""
    corners = [[160, 60], [240, 130], [160, 200], [80, 130]]
    pixels = drawn(r.DetectResult([r.Detection("cat", 0.9, BOX, extra={"corners": corners})]))
    colour = colour_of("cat")
    for (x1, y1), (x2, y2) in itertools.pairwise([*corners, corners[0]]):
        x, y = (x1 + x2) // 2, (y1 + y2) // 2
        assert like(pixels[y - 1 : y + 1, x - 1 : x + 1], colour) > 0.5
    assert not changed(pixels[75:100, 80:82]).any()
    assert not changed(pixels[180:199, 80:120]).any()


@pytest.mark.parametrize("corners", [None, [[1, 2]], [[1, 2, 3]] * 4, "four", [["a", 1]] * 4])
def test_corners_that_are_none(corners):
    """What is no four points is left aside, and the box drawn as it is."""
    pixels = drawn(r.DetectResult([r.Detection("cat", 0.9, BOX, extra={"corners": corners})]))
    assert like(pixels[100:160, 80:82], colour_of("cat")) > 0.9


@pytest.mark.parametrize("name", sorted(ANSWERS))
@pytest.mark.parametrize("form", ["json", "msgpack"])
def test_an_answer_is_drawn_as_its_result(name, form):
    """``mataserver.draw`` takes a result, an answer of the client, and its JSON; all look alike."""
    result = ANSWERS[name]
    task = name if name in type(result).tasks else type(result).tasks[0]
    envelope = Envelope(task, "org/model")
    body = Outcome(encode_body(result, form, envelope), Timing()).whole()
    answer = r.decode(body, msgpack=form == "msgpack")
    pixels = np.full((HEIGHT, WIDTH, 3), 128, np.uint8)
    wanted = mataserver.draw(pixels, result)
    assert (pixels == 128).all()
    assert (wanted.shape, wanted.dtype) == (pixels.shape, np.uint8)
    assert np.array_equal(mataserver.draw(pixels, answer), wanted)
    if form == "json":
        assert np.array_equal(mataserver.draw(pixels, json.loads(body)), wanted)
    assert np.array_equal(wanted, pixels) == (name == "embed")


@pytest.mark.parametrize(
    "nothing", [None, 7, {"task": "fly"}, {"task": "fly", "model": "org/model"}, {}]
)
def test_what_is_no_answer(nothing):
    """Anything else is a ``ValueError``."""
    with pytest.raises(ValueError, match=r"."):
        mataserver.draw(np.zeros((8, 8, 3), np.uint8), nothing)
