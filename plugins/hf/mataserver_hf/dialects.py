"""Prompts of each family for an ``output_mode``, and the formats in which it writes boxes.

Chat models are prompted for JSON, with boxes in the unit that they were trained on, if any:

- Qwen2-VL (arXiv:2409.12191) and Qwen3-VL: thousandths of the image's width and height;
- Qwen2.5-VL (arXiv:2502.13923): pixels of the image as it was resized for the model;
- LLaVA (arXiv:2310.03744): fractions of what it sees, 0 to 1;
- the others were trained on none, and are prompted for thousandths.

PaliGemma (arXiv:2407.07726) and Florence-2 (arXiv:2311.06242) were trained on location tokens.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

from mataserver import Classification, Detection, Entity, InvalidParams, VlmResult
from mataserver_hf import answers, lenient_json

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mataserver import Box
    from mataserver_hf.answers import Mention, Quad

Mode = Literal["json", "detect", "classify", "describe"]
Unit = Literal["thousandths", "fractions", "pixels"]

OVERSHOOT = 0.02
"""How far, as a share of the grid, a corner may lie outside before its box is rejected."""


@dataclass(frozen=True, slots=True)
class View:
    """The part of an image that a model sees.

    image:   the image's width and height in pixels.
    region:  left, top, width and height of the part that the model sees, in the image's pixels.
    resized: width and height in pixels that this part was resized to.
    """

    image: tuple[int, int]
    region: tuple[float, float, float, float]
    resized: tuple[int, int]

    def box(self, corners: Quad, grid: tuple[float, float]) -> Box | None:
        """Map corners on a grid of that width and height, which covers the region, to the image.

        Returns None for a box that is empty or not within the grid: it is in another unit.
        """
        x1, y1, x2, y2 = corners
        wide, high = grid
        if not (-OVERSHOOT * wide <= x1 < x2 <= (1 + OVERSHOOT) * wide):
            return None
        if not (-OVERSHOOT * high <= y1 < y2 <= (1 + OVERSHOOT) * high):
            return None
        left, top, width, height = self.region
        across, down = width / wide, height / high
        right, bottom = self.image
        box = (
            min(max(left + x1 * across, 0.0), float(right)),
            min(max(top + y1 * down, 0.0), float(bottom)),
            min(max(left + x2 * across, 0.0), float(right)),
            min(max(top + y2 * down, 0.0), float(bottom)),
        )
        return box if box[0] < box[2] and box[1] < box[3] else None


class Dialect(Protocol):
    """Formats the prompt of a mode, and parses the answer."""

    def format_prompt(self, prompt: str, mode: Mode) -> str:
        """Return the prompt for the model. Raises ``InvalidParams`` for an unsupported mode."""

    def parse(self, text: str, mode: Mode, view: View) -> VlmResult:
        """Return the result: ``text`` alone where it cannot be parsed."""


@dataclass(frozen=True, slots=True)
class JsonDialect:
    """A model that follows instructions.

    unit: the unit of its coordinates; box_key: its key for a box.
    """

    unit: Unit = "thousandths"
    box_key: str = "bbox"

    def format_prompt(self, prompt: str, mode: Mode) -> str:
        """Return the prompt, followed by a description of the answer's layout."""
        layout = _LAYOUTS[mode].format(key=self.box_key, unit=_UNITS[self.unit])
        return f"{prompt}\n\n{layout}"

    def parse(self, text: str, mode: Mode, view: View) -> VlmResult:
        """Return the result that the JSON in ``text`` describes."""
        value = lenient_json.find(text)
        if value is None:
            return VlmResult(text)
        if mode == "detect":
            return self._detections(text, answers.mentions(value), view)
        if mode == "classify":
            best = answers.scores(value)
            classes = [Classification(each.label, each.confidence) for each in best]
            return VlmResult(text, [each.entity() for each in best], classifications=classes)
        named = [each.entity() for each in answers.mentions(value)]
        return VlmResult(text, named, output=value)

    def _detections(self, text: str, found: list[Mention], view: View) -> VlmResult:
        entities = []
        detections = []
        for each in found:
            box = each.corners and view.box(each.corners, self._grid(each.corners, view))
            if box:
                detections.append(Detection(each.label, each.confidence, box))
            entities.append(each.entity(without_box=box is not None))
        return VlmResult(text, entities, detections)

    def _grid(self, corners: Quad, view: View) -> tuple[float, float]:
        # A model prompted for thousandths may answer in fractions; no box is a thousandth wide.
        if self.unit == "fractions" or (self.unit == "thousandths" and max(corners) <= 1):
            return 1.0, 1.0
        if self.unit == "pixels":
            return float(view.resized[0]), float(view.resized[1])
        return 1000.0, 1000.0


_UNITS: dict[Unit, str] = {
    "thousandths": "as integers from 0 to 1000 relative to the width and height of the image",
    "fractions": "as fractions of the width and height of the image, from 0 to 1",
    "pixels": "in pixels of the image",
}
_LAYOUTS: dict[Mode, str] = {
    "json": "Answer with valid JSON only.",
    "detect": (
        'Answer with a JSON list only. Each item is {{"label": "...", "{key}": [x1, y1, x2, y2]}} '
        "with the top left and the bottom right corner {unit}. The list is empty if there is "
        "nothing to find."
    ),
    "classify": (
        'Answer with a JSON list only, the best class first. Each item is {{"label": "...", '
        '"confidence": c}} with c from 0 to 1.'
    ),
    "describe": (
        'Answer with a JSON object only: {{"description": "...", "objects": [{{"label": "...", '
        '"attributes": {{...}}}}]}}.'
    ),
}


@dataclass(frozen=True, slots=True)
class LocationDialect:
    """A model that writes boxes as location tokens, four to a box, and no JSON.

    tasks:       the prefixes of a prompt for boxes; the first is added unless the prompt has one.
    token:       matches one location token; its group is the position on the grid.
    grid:        the positions along each side.
    middle:      the offset to the middle of a grid cell, if a token means the cell's middle.
    label_first: whether the label stands before its boxes (Florence-2) or behind (PaliGemma).
    y_first:     whether the vertical position comes first (PaliGemma).
    """

    tasks: tuple[str, ...]
    token: str
    grid: int
    middle: float
    label_first: bool
    y_first: bool

    def format_prompt(self, prompt: str, mode: Mode) -> str:
        """Return the prompt with a prefix that the model was trained on."""
        if mode != "detect":
            raise InvalidParams("params.output_mode: this model has no other mode than 'detect'")
        return prompt if prompt.startswith(self.tasks) else f"{self.tasks[0]}{prompt}"

    def parse(self, text: str, mode: Mode, view: View) -> VlmResult:
        """Return the boxes; an answer without any is text alone."""
        found = [
            Detection(label, 1.0, box)
            for label, corners in self._boxes(text)
            if (box := view.box(corners, (self.grid, self.grid))) is not None
        ]
        if mode != "detect" or not found:
            return VlmResult(text)
        return VlmResult(text, [Entity(each.label) for each in found], found)

    def _boxes(self, text: str) -> Iterator[tuple[str, Quad]]:
        runs = list(re.finditer(rf"(?:{self.token})+", text))
        ends = [0, *(run.end() for run in runs)]
        starts = [*(run.start() for run in runs), len(text)]
        for index, run in enumerate(runs):
            if self.label_first:
                label = re.split("[<>;]", text[ends[index] : starts[index]])[-1].strip()
            else:
                label = re.split("[<>;]", text[ends[index + 1] : starts[index + 1]])[0].strip()
            places = [int(each) + self.middle for each in re.findall(self.token, run[0])]
            for start in range(0, len(places) - 3, 4):
                first, second, third, fourth = places[start : start + 4]
                if label and self.y_first:
                    yield label, (second, first, fourth, third)
                elif label:
                    yield label, (first, second, third, fourth)


_CHAT = JsonDialect()
_QWEN = JsonDialect(box_key="bbox_2d")
_LLAVA = JsonDialect(unit="fractions")

DIALECTS: dict[str, Dialect] = {
    "florence2": LocationDialect(
        (
            "<OPEN_VOCABULARY_DETECTION>",
            "<OD>",
            "<DENSE_REGION_CAPTION>",
            "<CAPTION_TO_PHRASE_GROUNDING>",
        ),
        r"<loc_([0-9]{1,3})>",
        1000,
        middle=0.5,
        label_first=True,
        y_first=False,
    ),
    "idefics3": _CHAT,
    "llava": _LLAVA,
    "llava_next": _LLAVA,
    "paligemma": LocationDialect(
        ("detect ",), r"<loc([0-9]{4})>", 1024, middle=0.0, label_first=False, y_first=True
    ),
    "qwen2_5_vl": JsonDialect(unit="pixels", box_key="bbox_2d"),
    "qwen2_vl": _QWEN,
    "qwen3_vl": _QWEN,
    "smolvlm": _CHAT,
}
"""One for each ``model_type`` that is served."""
