"""Parsing of inference parameters into a backend's params struct.

Unknown and former names are rejected, every API parameter is validated, and those that the backend
does not use are dropped.
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
from msgspec import UNSET, Struct

from mataserver.errors import BadRequest, InvalidParams
from mataserver.params import whole_numbers
from mataserver.params.table import (
    MAX_PROMPTS,
    OLD_NAMES,
    UPLOAD_FIELDS,
    ApiParams,
    OutOfRangeError,
    Params,
)
from mataserver.params.text_values import from_text
from mataserver.params.wording import describe, sentence_of, split
from mataserver.suggestion import similar

if TYPE_CHECKING:
    from collections.abc import Mapping


P = TypeVar("P", bound=Params)


def parse(
    given: Mapping[str, Any],
    params_type: type[P],
    *,
    defaults: Mapping[str, Any] | None = None,
    max_tokens: int | None = None,
) -> P:
    """Validate ``given`` (a decoded JSON object) and build the backend's params struct from it.

    ``defaults`` are the model's params of the configuration; ``max_tokens`` is the server's
    ceiling. Null means "not given". Raises ``InvalidParams`` (422) naming the parameter.
    """
    _reject_unknown(given, params_type, "params.")
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

    Defaults, of the configuration or of the struct, are exempt.
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
    """Like ``parse``, for the text values of a form or a query.

    An empty one means "not given": browsers send every input of a form, filled in or not.
    """
    _reject_unknown(fields, params_type, "")
    values: dict[str, Any] = {}
    for name, text in fields.items():
        shared = name in ApiParams.__struct_fields__
        if shared and name not in UPLOAD_FIELDS:
            raise InvalidParams(f"{name}: only the JSON endpoint takes this parameter")
        if text:
            values[name] = _from_text(name, text, ApiParams if shared else params_type)
    return parse(values, params_type, defaults=defaults, max_tokens=max_tokens)


def check_defaults(given: Mapping[str, Any], *params_types: type[Params]) -> None:
    """Validate the params that the configuration sets for a model.

    ``params_types`` are the structs of its backend, and of the backends for its other tasks. Raises
    ``InvalidParams`` naming the parameter.
    """
    own = {name for each in params_types for name in each.__struct_fields__}
    for params_type in params_types:
        others = own.difference(params_type.__struct_fields__, ApiParams.__struct_fields__)
        kept = {name: value for name, value in given.items() if name not in others}
        parse(kept, params_type)


def configured(given: Mapping[str, Any], params_type: type[Params]) -> dict[str, Any]:
    """Return the configured params that a backend has; text prompts become a list."""
    kept = {name: value for name, value in given.items() if name in params_type.__struct_fields__}
    if "prompts" in kept:
        kept["prompts"] = split_prompts(kept["prompts"])
    return kept


def split_prompts(value: str | list[str]) -> list[str]:
    """Normalize text prompts to a list without empty entries.

    A string is split at dots, except between digits ("a 2.5 m pole . dog"), and spaces around the
    parts are cut off. Of a list the entries are kept as they are: clients look for what they sent
    among the labels. Raises ``InvalidParams`` if nothing is left or there are too many.
    """
    parts = value
    if isinstance(value, str):
        parts = [part.strip() for part in re.split(r"(?<!\d)\.|\.(?!\d)", value)]
    prompts = [part for part in parts if part.strip()]
    if not prompts:
        raise InvalidParams("params.prompts: at least one prompt is needed")
    if len(prompts) > MAX_PROMPTS:
        raise InvalidParams(f"params.prompts: at most {MAX_PROMPTS} prompts")
    return prompts


def _reject_unknown(given: Mapping[str, Any], params_type: type[Params], root: str) -> None:
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
        return _convert(values, target)
    except msgspec.ValidationError as error:
        cause = error.__cause__
        if isinstance(cause, OutOfRangeError):
            raise InvalidParams(f"params.{cause.path}: {cause.message}") from None
        raise InvalidParams(describe(error, "params")) from None


def _convert(values: Mapping[str, Any], target: type[T]) -> T:
    try:
        return msgspec.convert(values, target)
    except msgspec.ValidationError as error:
        if not whole_numbers.are_refused(error):
            raise
    try:
        return whole_numbers.read(values, lambda given: msgspec.convert(given, target))
    except RecursionError:
        raise BadRequest("The params are nested too deeply") from None


def _from_text(name: str, text: str, target: type[Struct]) -> Any:
    if name == "prompts" and text.lstrip().startswith("["):
        return _parse_list(name, text)
    field = next(f for f in msgspec.structs.fields(target) if f.name == name)
    try:
        value = from_text(text, field.type)
    except msgspec.ValidationError as error:
        raise InvalidParams(f"{name}: {sentence_of(split(str(error))[0])}") from None
    if isinstance(value, float) and not math.isfinite(value):
        raise InvalidParams(f"{name}: must be a finite number")
    return value


def _parse_list(name: str, text: str) -> list[str]:
    """Parse a JSON list; a leading bracket is not plausible in a text prompt."""
    try:
        return msgspec.json.decode(text, type=list[str])
    except (msgspec.ValidationError, msgspec.DecodeError):
        raise InvalidParams(
            f'{name}: write texts with full stops between them, or a list as in ["cat", "dog"]'
        ) from None


def check_object(value: Any) -> dict[str, Any]:
    """Return ``value`` as a request's params object; None means empty."""
    if value is None or value is UNSET:
        return {}
    if not isinstance(value, dict):
        raise InvalidParams(f"params: expected `object`, got `{type(value).__name__}`")
    if not all(isinstance(name, str) for name in value):
        raise BadRequest("params: names must be strings")
    return value
