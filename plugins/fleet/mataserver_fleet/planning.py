"""What would make a fleet as a document says: a list of requests, each with a line of the diff."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

import msgspec
from msgspec import UNSET

from mataserver_fleet.fleet_client import quote_name
from mataserver_fleet.load_answers import NO_TRITON
from mataserver_fleet.manifest import AppEntry

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from msgspec import UnsetType

    from mataserver import MataError
    from mataserver_fleet.manifest import Manifest, ModelEntry

Subject = tuple[str, str]
"""A kind and a name, such as ``apps`` and ``shop``."""


@dataclass(frozen=True)
class Step:
    """A request. ``line`` is its line of the diff, which begins with ``+``, ``-`` or ``~``."""

    line: str
    method: str
    path: str
    body: dict[str, Any] | None = None

    @property
    def creates_subject(self) -> bool:
        """Whether it makes a thing."""
        return len(self._components) == 1

    @property
    def removes_subject(self) -> bool:
        """Whether it takes a thing away."""
        return self.method == "DELETE" and len(self._components) == 2

    @property
    def subject(self) -> Subject:
        """What it makes or changes."""
        kind, *rest = self._components
        return kind, unquote(rest[0]) if rest else (self.body or {})["name"]

    @property
    def _components(self) -> list[str]:
        """What stands in its path below ``/api``."""
        return urlsplit(self.path).path.split("/")[2:]

    def stays_wanted(self, error: MataError) -> bool:
        """Whether what was refused stays wanted: a model that could not be loaded now does."""
        refused = error.status == 502 or error.detail == NO_TRITON
        return refused and self.path.endswith(("/load", "/unload"))


def problems(found: Manifest, wanted: Manifest) -> list[str]:
    """Return why a document cannot be applied; nothing is changed where there is a reason."""
    reasons = [
        line
        for name, entry in wanted.models.items()
        for line in _missing_versions(name, entry, found.models.get(name))
    ]
    tritons = {*found.tritons, *wanted.tritons}
    for name, model in wanted.models.items():
        reasons += [
            f"models.{name}: there is no Triton {t}" for t in model.tritons if t not in tritons
        ]
    consumers, apps = {*found.consumers, *wanted.consumers}, {*found.apps, *wanted.apps}
    for name, app in wanted.apps.items():
        absent = [each for each in app.consumers if each not in consumers]
        reasons += [f"apps.{name}: there is no consumer {each}" for each in absent]
    for name, user in wanted.users.items():
        reasons += [
            f"users.{name}: there is no application {a}" for a in user.apps if a not in apps
        ]
        if name not in found.users:
            reasons.append(f"users.{name}: there is no such user; make one first, with a password")
    return reasons


def _missing_versions(name: str, entry: ModelEntry, found: ModelEntry | None) -> Iterator[str]:
    """Yield what is wrong about a model's files: they are pushed, and stand in no document."""
    if found is None:
        yield f"models.{name}: it is not here; push its files first"
        return
    for number, digest in entry.versions.items():
        known = found.versions.get(number)
        if known is None:
            yield f"models.{name}: version {number} is not here; push its files first"
        elif known != digest:
            yield f"models.{name}: version {number} is of other files ({known[:12]}) here"
    named = {
        *_numbers(entry.everywhere),
        *(number for each in entry.tritons.values() for number in each),
    }
    for number in sorted(named - {*found.versions, *entry.versions}):
        yield f"models.{name}: version {number} is not here; push its files first"


def steps(found: Manifest, wanted: Manifest, *, prune: bool) -> list[Step]:
    """Return what is to be done, in an order in which it can be.

    With ``prune`` also what takes away whatever a document leaves out; models never are.
    """
    removed: list[Step] = []
    if prune:
        removed = _prune_steps("consumers", "consumer", found.consumers, wanted.consumers)
        removed += _prune_steps("tritons", "Triton", found.tritons, wanted.tritons)
    return [
        *(_prune_steps("apps", "application", found.apps, wanted.apps) if prune else ()),
        *_entry_steps("tritons", "Triton", _plain(found.tritons), _plain(wanted.tritons)),
        *(step for name in wanted.models for step in _model_steps(name, found, wanted)),
        *_entry_steps("consumers", "consumer", _plain(found.consumers), _plain(wanted.consumers)),
        *_entry_steps("apps", "application", _app_fields(found.apps), _app_fields(wanted.apps)),
        *(step for name in wanted.apps for step in _app_steps(name, found, wanted, prune=prune)),
        *(step for name in wanted.users for step in _user_steps(name, found, wanted, prune=prune)),
        *removed,
    ]


def _plain(entries: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    return {name: msgspec.to_builtins(entry) for name, entry in entries.items()}


def _app_fields(entries: Mapping[str, AppEntry]) -> dict[str, dict[str, Any]]:
    beside = {"routes", "consumers"}
    return {
        name: {key: value for key, value in fields.items() if key not in beside}
        for name, fields in _plain(entries).items()
    }


def _entry_steps(
    kind: str, what: str, found: Mapping[str, Any], wanted: Mapping[str, Any]
) -> Iterator[Step]:
    """Yield what makes and changes the things of a kind."""
    for name, fields in wanted.items():
        if name not in found:
            line = f"+ {what} {name}{_format_fields(fields, {})}"
            yield Step(line, "POST", f"/api/{kind}", {"name": name, **fields})
            continue
        changed = _changed_fields(fields, found[name])
        if changed:
            line = f"~ {what} {name}{_format_fields(changed, found[name])}"
            yield Step(line, "PATCH", f"/api/{kind}/{quote_name(name)}", changed)


def _model_steps(name: str, found: Manifest, wanted: Manifest) -> Iterator[Step]:
    """Yield what changes a model's description, and which of its versions are wanted where."""
    known, entry = found.models[name], wanted.models[name]
    if entry.description not in {UNSET, known.description}:
        line = f"~ model {name}{_format_fields({'description': entry.description}, {})}"
        yield Step(
            line, "PATCH", f"/api/models/{quote_name(name)}", {"description": entry.description}
        )
    tritons = dict.fromkeys([*found.tritons, *wanted.tritons])
    before = _numbers(known.everywhere)
    now = {each: sorted(known.tritons.get(each, before)) for each in tritons}
    goals = {each: sorted(numbers) for each, numbers in entry.tritons.items()}
    if entry.everywhere is not UNSET:
        everywhere = _numbers(entry.everywhere)
        goals = {each: goals.get(each, everywhere) for each in tritons}
        if everywhere != before:
            yield _load_step(name, None, everywhere)
            now = dict.fromkeys(tritons, everywhere)
    for triton, goal in goals.items():
        if now[triton] != goal:
            yield _load_step(name, triton, goal)


def _load_step(model: str, triton: str | None, versions: list[int]) -> Step:
    where = "everywhere" if triton is None else f"at {triton}"
    at = {} if triton is None else {"triton_id": triton}
    path = f"/api/models/{quote_name(model)}"
    if not versions:
        return Step(f"~ model {model} unloaded {where}", "POST", f"{path}/unload", at)
    line = f"~ model {model} {where} versions={versions}"
    return Step(line, "POST", f"{path}/load", {**at, "versions": versions})


def _app_steps(name: str, found: Manifest, wanted: Manifest, *, prune: bool) -> Iterator[Step]:
    """Yield what changes the models and the consumers of an application."""
    entry, known = wanted.apps[name], found.apps.get(name, AppEntry())
    path, app = f"/api/apps/{quote_name(name)}", f"application {name}"
    if prune:  # first, so that their paths are free
        for model in known.routes.keys() - entry.routes.keys():
            yield Step(f"- {app}: {model}", "DELETE", f"{path}/routes/{quote_name(model)}")
        for consumer in sorted({*known.consumers} - {*entry.consumers}):
            yield Step(f"- {app}: {consumer}", "DELETE", f"{path}/consumers/{quote_name(consumer)}")
    before, routes = _plain(known.routes), _plain(entry.routes)
    for model, fields in routes.items():
        changed = _changed_fields(fields, before.get(model, {}))
        if changed or model not in before:
            sign = "~" if model in before else "+"
            line = f"{sign} {app}: {model}{_format_fields(changed, before.get(model, {}))}"
            yield Step(line, "POST", f"{path}/routes/{quote_name(model)}", _route_body(changed))
    for consumer in entry.consumers:
        if consumer not in known.consumers:
            yield Step(f"+ {app}: {consumer}", "POST", f"{path}/consumers/{quote_name(consumer)}")


def _route_body(fields: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of a route as its request has them: numbers of versions as texts."""
    made = dict(fields)
    if "weights" in made:
        made["weights"] = {str(number): weight for number, weight in made["weights"].items()}
    if made.get("mirror") is not None:
        made["mirror"] = str(made["mirror"])
    return made


def _user_steps(name: str, found: Manifest, wanted: Manifest, *, prune: bool) -> Iterator[Step]:
    """Yield what changes a user's tags and authorisations."""
    entry, known, path = wanted.users[name], found.users[name], f"/api/users/{quote_name(name)}"
    if entry.tags not in {UNSET, known.tags}:
        line = f"~ user {name}{_format_fields({'tags': entry.tags}, {'tags': known.tags})}"
        yield Step(line, "PATCH", path, {"tags": entry.tags})
    for app in entry.apps:
        if app not in known.apps:
            yield Step(f"+ user {name}: {app}", "POST", f"{path}/apps/{quote_name(app)}/auth")
    for app in known.apps if prune else ():
        if app not in entry.apps and app in wanted.apps:
            yield Step(f"- user {name}: {app}", "POST", f"{path}/apps/{quote_name(app)}/unauth")


def _prune_steps(
    kind: str, what: str, found: Mapping[str, Any], wanted: Mapping[str, Any]
) -> list[Step]:
    """Return what removes the things of a kind that a document leaves out."""
    force = "?force=true" if kind == "tritons" else ""  # its models go with it
    return [
        Step(f"- {what} {name}", "DELETE", f"/api/{kind}/{quote_name(name)}{force}")
        for name in found
        if name not in wanted
    ]


def _changed_fields(wanted: Mapping[str, Any], found: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: value for name, value in wanted.items() if name not in found or found[name] != value
    }


def _format_fields(fields: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    """Return fields as the end of a line, with what they were before."""
    return "".join(
        f" {name}={_format_value(found[name])}->{_format_value(value)}"
        if name in found
        else f" {name}={_format_value(value)}"
        for name, value in fields.items()
    )


def _format_value(value: object) -> str:
    return msgspec.json.encode(value).decode()


def _numbers(versions: list[int] | UnsetType) -> list[int]:
    return [] if versions is UNSET else sorted(versions)
