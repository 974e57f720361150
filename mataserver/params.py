"""The user-facing inference parameters: their types, their ranges and the refused old names.

``parse`` turns what a client sent into the params struct of the backend that serves the model:
unknown names and old names are refused, every parameter of the API is checked, those that the
backend does not use are dropped.
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from mataserver.errors import BadRequest, InvalidParams
from mataserver.suggestion import known_at, similar

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_PROMPTS = 256
MAX_TEXT = 16_384
MAX_PROMPT_POINTS = 1_024
MAX_TARGET_SIDE = 8_192
MAX_SAID = 200
_AT = " - at `$"
# As people write numbers. A query's "+" arrives as a space.
_NUMBER = re.compile(r"([ +-]?)(\d*)(\.?)(\d*)([eE][+-]?\d+)?", re.ASCII)

Confidence = Annotated[float, Meta(ge=0.0, le=1.0, description="Threshold, 0 to 1.")]
Text = Annotated[str, Meta(max_length=MAX_TEXT)]
TopK = Annotated[int, Meta(gt=0, le=1_000_000)]
MaxTokens = Annotated[int, Meta(gt=0, le=1_000_000)]
Temperature = Annotated[float, Meta(ge=0.0, le=100.0)]
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
"""Names that the API once took, each with the name that replaced it."""


class Params(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of every backend's params struct.

    A field that has a name of the API (``ApiParams``) has that meaning; a backend may add fields
    of its own. Every field needs a default or be required for every request. Its line in the
    docstring (``name: sentence``) is what the API tells of it.
    """


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
        Annotated[list[tuple[float, float, int]], Meta(min_length=1, max_length=MAX_PROMPT_POINTS)]
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
        """Check what a type cannot say."""
        for name in _FLOATS:
            value = getattr(self, name)
            if isinstance(value, float) and not math.isfinite(value):
                raise _OutOfRange(name, "must be a finite number")
        for index, (x, y, label) in enumerate(self.point_prompts or ()):
            if not (math.isfinite(x) and math.isfinite(y)):
                raise _OutOfRange(f"point_prompts[{index}]", "must be finite numbers")
            if label not in {0, 1}:
                raise _OutOfRange(f"point_prompts[{index}]", "label must be 0 or 1")
        for index, box in enumerate(self.box_prompts or ()):
            x1, y1, x2, y2 = box
            if not all(map(math.isfinite, box)) or x2 <= x1 or y2 <= y1:
                raise _OutOfRange(
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
"""The parameters that a form or a query can carry."""


class _OutOfRange(ValueError):
    """A range that ``ApiParams`` checks itself; msgspec hands it on as the cause."""

    def __init__(self, path: str, message: str) -> None:
        super().__init__(message)
        self.path = path
        self.message = message


P = TypeVar("P", bound=Params)


def parse(
    given: Mapping[str, Any],
    params_type: type[P],
    *,
    defaults: Mapping[str, Any] | None = None,
    max_tokens: int | None = None,
) -> P:
    """Check ``given`` (a decoded JSON object) and build the backend's params struct from it.

    ``defaults`` are the model's own params of the configuration. ``max_tokens`` is the server's
    ceiling. A null stands for what is not given. Raises ``InvalidParams`` (422) naming the
    parameter.
    """
    _refuse_unknown(given, params_type, "params.")
    given = {name: value for name, value in given.items() if value is not None}
    own = set(params_type.__struct_fields__)
    table = {name: value for name, value in given.items() if name in ApiParams.__struct_fields__}
    checked = build(table, ApiParams)
    if max_tokens is not None:
        _check_tokens(checked.max_tokens, max_tokens)
    kept = configured(defaults or {}, params_type)
    for name, value in given.items():
        if name in own:
            kept[name] = getattr(checked, name) if name in table else value
    if "prompts" in kept:
        kept["prompts"] = split_prompts(kept["prompts"])
    return build(kept, params_type)


def check_ceiling(given: Params, defaults: Mapping[str, Any], most: int) -> None:
    """Raise ``InvalidParams`` for a struct with more tokens than the server allows.

    What nobody asked for, a default of the configuration or of the struct, has no ceiling.
    """
    asked = getattr(given, "max_tokens", 0)
    if isinstance(asked, int) and asked > most:
        own = {field.name: field.default for field in msgspec.structs.fields(given)}
        if asked not in (own["max_tokens"], defaults.get("max_tokens")):
            _check_tokens(asked, most)


def _check_tokens(asked: object, most: int) -> None:
    if isinstance(asked, int) and asked > most:
        raise InvalidParams(f"params.max_tokens: this server allows at most {most}")


def parse_text(
    fields: Mapping[str, str],
    params_type: type[P],
    *,
    defaults: Mapping[str, Any] | None = None,
    max_tokens: int | None = None,
) -> P:
    """Like ``parse``, for the text values of a form or a query."""
    _refuse_unknown(fields, params_type, "")
    values: dict[str, Any] = {}
    for name, text in fields.items():
        if name in ApiParams.__struct_fields__:
            if name not in UPLOAD_FIELDS:
                raise InvalidParams(f"{name}: only the JSON endpoint takes this parameter")
            values[name] = _from_text(name, text, ApiParams)
        else:
            values[name] = _from_text(name, text, params_type)
    return parse(values, params_type, defaults=defaults, max_tokens=max_tokens)


def check_defaults(given: Mapping[str, Any], *params_types: type[Params]) -> None:
    """Check the params that the configuration sets for a model.

    ``params_types`` are those of its backend and of what that makes of the same model. Raises
    ``InvalidParams`` naming the parameter.
    """
    own = {name for each in params_types for name in each.__struct_fields__}
    for params_type in params_types:
        others = own.difference(params_type.__struct_fields__, ApiParams.__struct_fields__)
        kept = {name: value for name, value in given.items() if name not in others}
        parse(kept, params_type)


def configured(given: Mapping[str, Any], params_type: type[Params]) -> dict[str, Any]:
    """Return those params of the configuration that a backend has; text prompts become a list."""
    kept = {name: value for name, value in given.items() if name in params_type.__struct_fields__}
    if "prompts" in kept:
        kept["prompts"] = split_prompts(kept["prompts"])
    return kept


def split_prompts(value: str | list[str]) -> list[str]:
    """Normalise text prompts to a list without empty entries.

    A string is split at dots, except between digits ("a 2.5 m pole . dog"); a list is taken as it
    is. Raises ``InvalidParams`` when nothing is left or there are too many.
    """
    parts = re.split(r"(?<!\d)\.|\.(?!\d)", value) if isinstance(value, str) else value
    prompts = [part.strip() for part in parts if part.strip()]
    if not prompts:
        raise InvalidParams("params.prompts: at least one prompt is needed")
    if len(prompts) > MAX_PROMPTS:
        raise InvalidParams(f"params.prompts: at most {MAX_PROMPTS} prompts")
    return prompts


def _refuse_unknown(given: Mapping[str, Any], params_type: type[Params], root: str) -> None:
    for name in given:
        if name in params_type.__struct_fields__ or name in ApiParams.__struct_fields__:
            continue
        if name in OLD_NAMES:
            raise InvalidParams(f"{root}{name}: unknown parameter; use '{OLD_NAMES[name]}'")
        meant = similar(name, {*params_type.__struct_fields__, *ApiParams.__struct_fields__})
        raise InvalidParams(f"{root}{name[:64]}: unknown parameter{meant}")


T = TypeVar("T", bound=Struct)


def build(values: Mapping[str, Any], target: type[T]) -> T:
    """Return the struct of ``values``. Raises ``InvalidParams`` naming the parameter."""
    try:
        return msgspec.convert(values, target)
    except msgspec.ValidationError as error:
        cause = error.__cause__
        if isinstance(cause, _OutOfRange):
            raise InvalidParams(f"params.{cause.path}: {cause.message}") from None
        raise InvalidParams(describe(error, "params")) from None


def from_text(text: str, kind: Any) -> Any:
    """Return what the text of a form, a query or a variable says, as ``kind``.

    Numbers may be written as ``.8``, ``1.``, ``+0.5`` and ``1e-1``. Raises
    ``msgspec.ValidationError``.
    """
    try:
        return msgspec.convert(text, kind, strict=False)
    except msgspec.ValidationError:
        plain = plain_number(text)
        if plain == text:
            raise
    return msgspec.convert(plain, kind, strict=False)


def plain_number(text: str) -> str:
    """Return a number as JSON writes it, and any other text as it is."""
    found = _NUMBER.fullmatch(text)
    if found is None or not found[2] + found[4]:
        return text
    sign, whole, point, fraction, exponent = found.groups("")
    decimals = f".{fraction or '0'}" if point else ""
    return f"{sign if sign == '-' else ''}{whole.lstrip('0') or '0'}{decimals}{exponent}"


def _from_text(name: str, text: str, target: type[Struct]) -> Any:
    if name == "prompts" and text.lstrip().startswith("["):
        return _listed(name, text)
    field = next(f for f in msgspec.structs.fields(target) if f.name == name)
    try:
        value = from_text(text, field.type)
    except msgspec.ValidationError as error:
        raise InvalidParams(f"{name}: {_sentence(_split(str(error))[0])}") from None
    if isinstance(value, float) and not math.isfinite(value):
        raise InvalidParams(f"{name}: must be a finite number")
    return value


def _listed(name: str, text: str) -> list[str]:
    """Read a list in JSON: nobody looks for a thing whose name begins with a bracket."""
    try:
        return msgspec.json.decode(text, type=list[str])
    except (msgspec.ValidationError, msgspec.DecodeError):
        raise InvalidParams(
            f'{name}: write texts with full stops between them, or a list as in ["cat", "dog"]'
        ) from None


def describe(error: msgspec.ValidationError, root: str, kind: Any = None) -> str:
    """Turn msgspec's message into ``"params.confidence: expected `float`, got `str`"``.

    With the type ``kind`` that was asked for it tells what may have been meant.
    """
    message, path = _split(str(error))
    known = [] if kind is None else known_at(kind, path)
    where = _join(root, path)
    missing = re.fullmatch(r"Object missing required field `(\w+)`", message)
    if missing:
        return f"{where}{'.' if where else ''}{missing[1]}: field is required"
    unknown = re.fullmatch(r"Object contains unknown field `(.*)`", message)
    if unknown:
        name = unknown[1][:64]
        return f"{where}{'.' if where else ''}{name}: unknown key{similar(name, known)}"
    sentence = _sentence(message)
    if known and sentence.startswith("invalid enum value"):
        sentence += f": one of {', '.join(known)}"
    return f"{where}: {sentence}" if where else sentence


def _split(text: str) -> tuple[str, str]:
    """Split msgspec's message from its path: at the last mark, as a quoted value may hold one."""
    message, mark, path = text.rpartition(_AT)
    return (message, path.rstrip("`")) if mark else (text, "")


def _join(root: str, path: str) -> str:
    return (root + path).lstrip(".")


def _sentence(message: str) -> str:
    # msgspec quotes a value that is none of an enumeration's in full, and the client sent it.
    shown = message if len(message) <= MAX_SAID else message[:MAX_SAID] + "…"
    return shown[:1].lower() + shown[1:]


def check_object(value: Any) -> dict[str, Any]:
    """Return ``value`` as the params object of a request; None stands for an empty one."""
    if value is None or value is UNSET:
        return {}
    if not isinstance(value, dict):
        raise InvalidParams(f"params: expected `object`, got `{type(value).__name__}`")
    if not all(isinstance(name, str) for name in value):
        raise BadRequest("params: names must be strings")
    return value
