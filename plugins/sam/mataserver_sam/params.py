"""The parameters of ``POST /v1/infer`` for SAM, and their conversion to prompts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mataserver import Confidence, InvalidParams, Params, Text
from mataserver_sam.boxes import centred
from mataserver_sam.prompts import MAX_PROMPTS, Prompt, check_points

if TYPE_CHECKING:
    from mataserver_sam.prompts import RelativeBox

    Size = tuple[int, int]


class SegmentParams(Params, frozen=True):
    """What to segment; at least one of the prompts is needed. Lengths are pixels of the image.

    confidence:    the lowest score of a segment that is returned.
    prompts:       SAM3: what to look for; each is the label of what it finds.
    point_prompts: ``[x, y, label]``, label 1 on the object, 0 beside it; all of one object. With
                   one box among ``box_prompts`` they refine the object in that box.
    box_prompts:   ``[x1, y1, x2, y2]``. SAM 1 and SAM 2 outline the object in each; SAM3 looks for
                   everything that looks like what is in them, and with ``prompts`` for what the
                   last text names and looks like that.
    """

    confidence: Confidence = 0.5
    prompts: tuple[Text, ...] = ()
    point_prompts: tuple[tuple[float, float, int], ...] = ()
    box_prompts: tuple[tuple[float, float, float, float], ...] = ()

    def check(self) -> None:
        """Raise ``InvalidParams`` without any prompt, and for too many points."""
        if not (self.prompts or self.point_prompts or self.box_prompts):
            raise InvalidParams("params: give prompts, point_prompts or box_prompts")
        check_points(len(self.point_prompts), "params.point_prompts")


class GroundedParams(Params, frozen=True):
    """What Grounding DINO is to find and SAM to outline.

    prompts:                 the objects; each is the label of what it finds. Needed.
    detection_confidence:    the lowest score of a box.
    segmentation_confidence: the lowest rating of a mask.
    """

    prompts: tuple[Text, ...] = ()
    detection_confidence: Confidence = 0.3
    segmentation_confidence: Confidence = 0.0

    def check(self) -> None:
        """Raise ``InvalidParams`` without a prompt."""
        if not self.prompts:
            raise InvalidParams("params.prompts: this model needs at least one prompt")


def prompts_of(params: SegmentParams, size: Size) -> list[Prompt]:
    """Return the prompts of a request on an image of ``size`` (height, width).

    Raises ``InvalidParams`` when there is none, or too many, or one lies outside the image.
    """
    texts = [Prompt(type="text", text=each) for each in params.prompts]
    boxes = [
        relative_box(box, size, f"box_prompts[{i}]") for i, box in enumerate(params.box_prompts)
    ]
    points = [_relative_point(params, index, size) for index in range(len(params.point_prompts))]
    held = boxes.pop() if points and len(boxes) == 1 else None
    prompts = texts + [Prompt(type="box", box=box) for box in boxes]
    if points:
        labels: list[Any] = [label for *_, label in params.point_prompts]
        prompts.append(Prompt(type="point", points=points, point_labels=labels, box=held))
    params.check()
    if len(prompts) > MAX_PROMPTS:
        raise InvalidParams(f"params: at most {MAX_PROMPTS} prompts together")
    return prompts


def relative_box(box: tuple[float, ...], size: Size, where: str) -> RelativeBox:
    """Return ``(x1, y1, x2, y2)`` in pixels as ``(cx, cy, w, h)`` in 0..1, clipped to the image.

    Raises ``InvalidParams`` for a box outside the image.
    """
    height, width = size
    x1, x2 = (min(max(each, 0.0), width) / width for each in (box[0], box[2]))
    y1, y2 = (min(max(each, 0.0), height) / height for each in (box[1], box[3]))
    if x2 <= x1 or y2 <= y1:
        raise InvalidParams(f"params.{where}: lies outside the image of {width}x{height} pixels")
    return centred((x1, y1, x2, y2))


def _relative_point(params: SegmentParams, index: int, size: Size) -> tuple[float, float]:
    x, y, _ = params.point_prompts[index]
    height, width = size
    if not (0 <= x <= width and 0 <= y <= height):
        raise InvalidParams(
            f"params.point_prompts[{index}]: lies outside the image of {width}x{height} pixels"
        )
    return (x / width, y / height)
