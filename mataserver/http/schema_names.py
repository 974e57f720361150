"""Names of the schemas in the OpenAPI document that hold outside this code.

msgspec qualifies structs of the same name by their modules. Those names would change with the
plugins that are installed, and generators of clients take the last part only and refuse the second.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_OWN = ("mataserver", "mataserver_client")
_PREFIX = "#/components/schemas/"


def with_own_names(schemas: list[Any], components: dict[str, Any]) -> tuple[list[Any], Any]:
    """Return schemas and components under names without dots."""
    names = own_names(components)
    if not names:
        return schemas, components
    renamed = {
        names.get(name, name): {**body, "title": names[name]} if name in names else body
        for name, body in components.items()
    }
    references = {_PREFIX + name: _PREFIX + own for name, own in names.items()}
    return _with_references(schemas, references), _with_references(renamed, references)


def own_names(components: Iterable[str]) -> dict[str, str]:
    """Return new names by those that have dots: ``mataserver_fleet.views.File`` is ``FleetFile``.

    The server's own need no prefix. Where that is not unique, the module's name is in it too.
    """
    given = sorted(components, key=lambda name: (name.partition(".")[0] not in _OWN, name))
    taken = {name for name in given if "." not in name}
    names: dict[str, str] = {}
    for name in given:
        if "." in name:
            package, *modules, last = name.split(".")
            owner = "" if package in _OWN else package.removeprefix("mataserver_")
            short, long = _camel([owner]) + last, _camel([owner, *modules]) + last
            names[name] = next(
                each for each in (short, long, name.replace(".", "_")) if each not in taken
            )
            taken.add(names[name])
    return names


def _camel(parts: Iterable[str]) -> str:
    """Return words in camel case: ``http``, ``file_views`` is ``HttpFileViews``."""
    return "".join(word.capitalize() for part in parts for word in part.split("_"))


def _with_references(value: Any, new: Mapping[str, str], key: str = "") -> Any:
    """Return a schema whose references are ``new``; a property may be called ``$ref``, too."""
    if isinstance(value, dict):
        return {name: _with_references(each, new, name) for name, each in value.items()}
    if isinstance(value, list):
        return [_with_references(each, new) for each in value]
    return new.get(value, value) if key == "$ref" else value
