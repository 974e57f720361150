"""The API's description of a registered model: its state and its parameters."""

from __future__ import annotations

import inspect
import re
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import UNSET

from mataserver.library import weights
from mataserver.params.parsing import configured
from mataserver.params.table import ApiParams
from mataserver.results import LoadProgress, ModelDetail, ModelInfo

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mataserver.config import ModelSettings
    from mataserver.library.plans import ModelPlan
    from mataserver.library.registry import Entry
    from mataserver.params.table import Params
    from mataserver.serving.slots import Status

_BOUNDS = (
    "default", "enum", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "minLength",
    "maxLength", "minItems", "maxItems",
)  # fmt: skip
"""Schema keywords by which a backend may narrow an API parameter."""
_LINE = re.compile(r"``?(\w+)``?:\s+(.*)|(\w+(?:, \w+)*):\s+(.*)")


def info(name: str, entry: Entry, status: Status, settings: ModelSettings) -> ModelInfo:
    """Return a model's entry of the list."""
    size = weights.size(name, entry)
    return ModelInfo(
        model=name,
        task=entry.task,
        source=entry.source,
        state=status.state,
        size_mb=None if size is None else round(size / 1e6, 1),
        memory_mb=None if status.memory is None else round(status.memory / 1e6, 1),
        loaded_at=status.loaded_at,
        last_used=status.last_used,
        error=UNSET if status.error is None else status.error,
        pinned=True if status.pinned or settings.pin else UNSET,
        loading=LoadProgress(*status.loading) if status.loading else UNSET,
    )


def detail(found: ModelInfo, plan: ModelPlan, max_tokens: int) -> ModelDetail:
    """Return a model's entry of the list, with the schema of its parameters."""
    schema = schema_of(plan.backend.params, plan.settings.params, max_tokens)
    return ModelDetail(**msgspec.structs.asdict(found), params=schema)


def schema_of(kind: type[Params], defaults: Mapping[str, Any], max_tokens: int) -> dict[str, Any]:
    """Return the JSON Schema (2020-12) of a model's parameters.

    ``defaults`` come from the model's configuration, ``max_tokens`` is the server's ceiling. API
    parameters that the model does not use are omitted: they are validated and ignored.
    """
    (own, api), parts = msgspec.json.schema_components(
        (kind, ApiParams), ref_template="#/$defs/{name}"
    )
    mine, common = (parts.pop(each["$ref"].rpartition("/")[2]) for each in (own, api))
    chosen, descriptions = configured(defaults, kind), _descriptions(kind)
    properties = {
        name: _property(schema, common["properties"].get(name), descriptions.get(name, ""))
        for name, schema in mine["properties"].items()
    }
    for name, value in chosen.items():
        properties[name]["default"] = value
    if "max_tokens" in properties:
        most = properties["max_tokens"].get("maximum", max_tokens)
        properties["max_tokens"]["maximum"] = min(most, max_tokens)
    needed = [name for name in mine.get("required", ()) if name not in chosen]
    made: dict[str, Any] = portable(
        {
            "type": "object",
            "properties": properties,
            **({"required": needed} if needed else {}),
            **({"$defs": parts} if parts else {}),
        }
    )
    return made


def portable(schema: Any) -> Any:
    """Return a JSON Schema that means the same to every reader.

    msgspec uses Python's regular expressions, which anchor the end with a backslash and ``Z``. JSON
    Schema specifies ECMA-262, which lacks that escape and whose ``$`` matches the end only.

    Generators of clients know no ``items`` that is false: beside ``maxItems`` it says nothing more.
    Nor do they know an array without ``items``.
    """
    if isinstance(schema, dict):
        fixed = len(prefix) if isinstance(prefix := schema.get("prefixItems"), list) else None
        if schema.get("items") is False and schema.get("maxItems") == fixed:
            schema = {name: each for name, each in schema.items() if name != "items"}
        elif schema.get("type") == "array" and fixed is None and "items" not in schema:
            schema = {**schema, "items": {}}
        return {
            name: value.replace(r"\Z", "$")
            if name == "pattern" and isinstance(value, str)
            else portable(value)
            for name, value in schema.items()
        }
    return [portable(each) for each in schema] if isinstance(schema, list) else schema


def _property(own: dict[str, Any], api: dict[str, Any] | None, description: str) -> dict[str, Any]:
    """Return one parameter's schema: the API's, narrowed by its backend."""
    narrowed = own if api is None else {name: own[name] for name in _BOUNDS if name in own}
    found = {**(api or {}), **narrowed}
    if found.get("default", ...) in (None, (), []):
        del found["default"]  # means "not given"
    return {**found, **({"description": description} if description else {})}


def _descriptions(kind: type[Params]) -> dict[str, str]:
    """Return each parameter's description, from docstrings of a struct, its bases, the API."""
    found: dict[str, str] = {}
    for each in reversed((*kind.__mro__, ApiParams)):
        found.update(_parse_lines(vars(each).get("__doc__") or ""))
    return found


def _parse_lines(text: str) -> dict[str, str]:
    """Parse ``name: text`` lines of a docstring, with their indented continuation lines."""
    found: dict[str, str] = {}
    names: list[str] = []
    for line in inspect.cleandoc(text).splitlines():
        start = _LINE.match(line)
        if start is not None:
            names = (start[1] or start[3]).split(", ")
            found.update(dict.fromkeys(names, start[2] or start[4]))
        elif line.startswith(" ") and line.strip():
            found.update({name: f"{found[name]} {line.strip()}" for name in names})
        else:
            names = []
    return {name: _as_sentence(line) for name, line in found.items()}


def _as_sentence(text: str) -> str:
    plain = text.replace("``", "`").strip()
    return plain[:1].upper() + plain[1:] + ("" if plain.endswith(".") else ".")
