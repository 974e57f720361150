"""The inference parameters of the API: types, ranges, and rejected former names."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Any, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_PROMPTS = 256
MAX_TEXT = 16_384
MAX_PROMPT_POINTS = 1_024
MAX_TARGET_SIDE = 8_192

Confidence = Annotated[float, Meta(ge=0.0, le=1.0, description="Threshold, 0 to 1.")]
Text = Annotated[str, Meta(max_length=MAX_TEXT)]
TopK = Annotated[int, Meta(gt=0, le=2_147_483_647)]
MaxTokens = Annotated[int, Meta(gt=0, le=1_000_000)]
Temperature = Annotated[float, Meta(ge=0.0)]
Language = Annotated[str, Meta(min_length=1, max_length=64)]
OutputMode = Literal["json", "detect", "classify", "describe"]
OcrType = Literal["ocr", "format"]
Detail = Literal[0, 1]
Side = Annotated[int, Meta(gt=0, le=MAX_TARGET_SIDE)]

OLD_NAMES = {
    "threshold": "confidence",
    "text_prompts": "prompts",
    "max_new_tokens": "max_tokens",
    "lang": "language",
    "detection_threshold": "detection_confidence",
    "segmentation_threshold": "segmentation_confidence",
}
"""Former names of parameters, with their replacements."""


class Params(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of every backend's params struct.

    A field that has a name of the API (``ApiParams``) has that meaning; a backend may add fields
    of its own. Every field needs a default or be required for every request. Its line in the
    docstring (``name: sentence``) is what the API tells of it.
    """

    def check(self) -> None:
        """Raise ``InvalidParams`` for what no image can be answered with, such as a lacking prompt.

        Called once they are complete: with what a request or a session gives, and the defaults.
        """

    def of_parts(self) -> Mapping[str, Mapping[str, Any]]:
        """Return what parts of a composed backend are to be given of it, by their labels.

        As for ``LoadedPart.params_with``: the parts' own ``check`` is then asked as well.
        """
        return {}


class ApiParams(Struct, kw_only=True, forbid_unknown_fields=True):
    """Every inference parameter of the API, for checking. All are optional.

    confidence:              leave out what is less sure.
    prompts:                 what to look for; a text is split at full stops.
    prompt:                  the question.
    system_prompt:           what the model is told before the question.
    max_tokens:              the longest answer.
    temperature:             0 always takes the likeliest word.
    top_p:                   choose among the likeliest words that together have this probability.
    top_k:                   how many classes, or among how many words to choose.
    output_mode:             what to read out of the text.
    use_softmax:             false returns raw scores and ignores ``confidence``.
    language:                a language code, such as "en" or "deu"; several joined by "+".
    ocr_type:                plain text, or with its layout.
    detail:                  0 returns text without boxes.
    normalize:               stretch the map to 0..1.
    target_size:             height and width of the map.
    point_prompts:           points [x, y, label]; label 1 is inside, 0 outside.
    box_prompts:             boxes [x1, y1, x2, y2] around what to segment.
    detection_confidence:    the least confidence of the detector.
    segmentation_confidence: the least confidence of the segmenter.
    """

    confidence: Confidence | UnsetType = UNSET
    prompts: Text | list[Text] | UnsetType = UNSET
    prompt: Text | UnsetType = UNSET
    system_prompt: Text | UnsetType = UNSET
    max_tokens: MaxTokens | UnsetType = UNSET
    temperature: Temperature | UnsetType = UNSET
    top_p: Confidence | UnsetType = UNSET
    top_k: TopK | UnsetType = UNSET
    output_mode: OutputMode | UnsetType = UNSET
    use_softmax: bool | UnsetType = UNSET
    language: Language | UnsetType = UNSET
    ocr_type: OcrType | UnsetType = UNSET
    detail: Detail | UnsetType = UNSET
    normalize: bool | UnsetType = UNSET
    target_size: tuple[Side, Side] | UnsetType = UNSET
    point_prompts: (
        Annotated[
            list[tuple[float, float, int | float]],  # a label is 1.0 in an array of points
            Meta(min_length=1, max_length=MAX_PROMPT_POINTS),
        ]
        | UnsetType
    ) = UNSET
    box_prompts: (
        Annotated[
            list[tuple[float, float, float, float]],
            Meta(min_length=1, max_length=MAX_PROMPT_POINTS),
        ]
        | UnsetType
    ) = UNSET
    detection_confidence: Confidence | UnsetType = UNSET
    segmentation_confidence: Confidence | UnsetType = UNSET

    def __post_init__(self) -> None:
        """Validate what types cannot express."""
        for name in _FLOATS:
            value = getattr(self, name)
            if isinstance(value, float) and not math.isfinite(value):
                raise OutOfRangeError(name, "must be a finite number")
        for index, (x, y, label) in enumerate(self.point_prompts or ()):
            if not (math.isfinite(x) and math.isfinite(y)):
                raise OutOfRangeError(f"point_prompts[{index}]", "must be finite numbers")
            if label not in {0, 1}:
                raise OutOfRangeError(f"point_prompts[{index}]", "label must be 0 or 1")
        if self.point_prompts:
            self.point_prompts = [(x, y, int(label)) for x, y, label in self.point_prompts]
        for index, box in enumerate(self.box_prompts or ()):
            x1, y1, x2, y2 = box
            if not all(map(math.isfinite, box)) or x2 <= x1 or y2 <= y1:
                raise OutOfRangeError(
                    f"box_prompts[{index}]", "must be [x1, y1, x2, y2], x1 < x2, y1 < y2"
                )


_FLOATS = (
    "confidence",
    "temperature",
    "top_p",
    "detection_confidence",
    "segmentation_confidence",
)

UPLOAD_FIELDS = frozenset(
    {
        "confidence",
        "prompts",
        "prompt",
        "language",
        "top_k",
        "max_tokens",
        "temperature",
        "output_mode",
        "ocr_type",
        "detail",
    }
)
"""The parameters that a form or a query may contain."""


class OutOfRangeError(ValueError):
    """A range error from ``ApiParams`` itself; msgspec passes it on as the cause."""

    def __init__(self, path: str, message: str) -> None:
        super().__init__(message)
        self.path = path
        self.message = message
