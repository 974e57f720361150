"""A fleet as a document in YAML: what ``mataserver fleet export`` writes and ``apply`` reads.

What an entry leaves out is left as it is. Files and secrets stand in none: of models' versions
their digests do, of consumers and users no key and no password.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from mataserver import MataError
from mataserver_fleet.app_routes import Protocol, PublicPath, Weight

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from mataserver_fleet.fleet_client import FleetClient

Number = Annotated[int, Meta(ge=1, lt=10**9)]
Numbers = Annotated[list[Number], Meta(max_length=100)]
_OCTAL = re.compile(r"[-+]?0[0-7_]+")
_Port = Annotated[int, Meta(ge=1, le=65_535)]


class _Entry(Struct, kw_only=True, forbid_unknown_fields=True):
    """A part of the document."""


class TritonEntry(_Entry):
    """A Triton."""

    host: str
    port: _Port
    grpc_port: _Port | UnsetType = UNSET
    metrics_port: _Port | UnsetType = UNSET
    gpus: int | UnsetType = UNSET
    path: str | UnsetType = UNSET


class ModelEntry(_Entry):
    """A model, whose files must be there.

    versions:   the digest of each version that there must be.
    everywhere: versions that are wanted at all Tritons that there are and will be.
    tritons:    versions that are wanted at some of them instead.
    """

    description: str | UnsetType = UNSET
    versions: dict[Number, str] = {}
    everywhere: Numbers | UnsetType = UNSET
    tritons: dict[str, Numbers] = {}


class RouteEntry(_Entry):
    """How an application offers a model."""

    protocols: list[Protocol] | UnsetType = UNSET
    paths: list[PublicPath] | UnsetType = UNSET
    weights: dict[Number, Weight] | UnsetType = UNSET
    mirror: Number | UnsetType | None = UNSET


class AppEntry(_Entry):
    """An application, the models that it offers, and the consumers that may ask it."""

    host: str | UnsetType | None = UNSET
    ip: str | UnsetType | None = UNSET
    retries: int | UnsetType = UNSET
    resend: bool | UnsetType = UNSET
    routes: dict[str, RouteEntry] = {}
    consumers: list[str] = []


class ConsumerEntry(_Entry):
    """A consumer."""

    tags: str | UnsetType = UNSET
    rate: int | UnsetType | None = UNSET
    quota: int | UnsetType | None = UNSET


class UserEntry(_Entry):
    """A user, who must be there: their tags, and the applications that they are authorised for."""

    tags: str | UnsetType = UNSET
    apps: list[str] = []


class Manifest(_Entry):
    """A fleet: things by their names."""

    tritons: dict[str, TritonEntry] = {}
    models: dict[str, ModelEntry] = {}
    consumers: dict[str, ConsumerEntry] = {}
    apps: dict[str, AppEntry] = {}
    users: dict[str, UserEntry] = {}


def read(path: Path) -> Manifest:
    """Read a document. Raises ``MataError`` for what is none."""
    import yaml

    class Loader(yaml.SafeLoader):
        """One that refuses a name that is given twice, and numbers that are read as others."""

        def construct_scalar(self, node: Any) -> Any:
            is_number = node.tag.endswith((":int", ":float"))
            if is_number and (":" in node.value or _OCTAL.fullmatch(node.value)):
                told = (
                    "YAML reads numbers like 010 as octal, and like 1:30 to the base of 60, so as "
                    "8 and 90; write a decimal number, or quotes around a text"
                )
                raise yaml.constructor.ConstructorError(None, None, told, node.start_mark)
            return super().construct_scalar(node)

        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            names = [key.value for key, _ in node.value]
            if twice := next((name for name in names if names.count(name) > 1), None):
                raise yaml.constructor.ConstructorError(None, None, f"{twice} is given twice")
            return super().construct_mapping(node, deep)

    try:
        content = yaml.load(path.read_bytes(), Loader)  # noqa: S506 - a safe one
        return msgspec.convert(content or {}, Manifest)
    except yaml.YAMLError as error:
        raise MataError(f"{path}: {' '.join(str(error).split())}") from None
    except (OSError, UnicodeDecodeError, msgspec.ValidationError) as error:
        raise MataError(f"{path}: {error}") from None


def dump(manifest: Manifest) -> str:
    """Return a document as text."""
    import yaml

    return yaml.safe_dump(msgspec.to_builtins(manifest), sort_keys=False, allow_unicode=True)


def current(ask: FleetClient) -> Manifest:
    """Return a running server's fleet. Raises ``MataError``."""
    found: dict[str, dict[str, Any]] = {}
    tritons: tuple[str, ...] = ()
    for kind in _ENTRIES:  # Tritons first: models refer to them
        listed = ask.list_all(kind)
        found[kind] = {each["name"]: entry(kind, each, tritons) for each in listed}
        tritons = tuple(found["tritons"])
    return Manifest(**found)


def entry(kind: str, view: dict[str, Any], tritons: Iterable[str]) -> _Entry:
    """Return the document's entry for a server's view of a kind, such as ``apps``."""
    return _ENTRIES[kind](view, tritons)


def _triton(view: dict[str, Any], _: object) -> TritonEntry:
    ports: dict[str, Any] = {
        name: int(view[name]) for name in ("grpc_port", "metrics_port") if view[name]
    }
    more = {name: view[name] for name in ("gpus", "path") if view[name] is not None}
    return TritonEntry(host=view["host"], port=int(view["port"]), **ports, **more)


def _model(view: dict[str, Any], tritons: Iterable[str]) -> ModelEntry:
    everywhere = sorted(map(int, view["everywhere"]))
    placed: dict[str, list[int]] = {name: [] for name in tritons}
    placed |= {each["name"]: sorted(map(int, each["wanted"])) for each in view["tritons"]}
    return ModelEntry(
        description=view["description"],
        versions={int(each["version"]): each["digest"] for each in view["versions"]},
        everywhere=everywhere,
        tritons={name: numbers for name, numbers in placed.items() if numbers != everywhere},
    )


def _consumer(view: dict[str, Any], _: object) -> ConsumerEntry:
    return ConsumerEntry(tags=view["tags"], rate=view["rate"], quota=view["quota"])


def _user(view: dict[str, Any], _: object) -> UserEntry:
    return UserEntry(tags=view["tags"], apps=view["apps"])


def _app(view: dict[str, Any], _: object) -> AppEntry:
    plain = {name: view[name] for name in ("host", "ip", "retries", "resend")}
    routes = {each["model_name"]: _route(each) for each in view["routes"]}
    return AppEntry(**plain, routes=routes, consumers=[each["name"] for each in view["consumers"]])


def _route(view: dict[str, Any]) -> RouteEntry:
    mirror = view["mirror"]
    return RouteEntry(
        protocols=view["protocols"],
        paths=view["paths"],
        weights={int(number): weight for number, weight in view["weights"].items()},
        mirror=None if mirror is None else int(mirror),
    )


_ENTRIES: dict[str, Callable[[dict[str, Any], Iterable[str]], _Entry]] = {
    "tritons": _triton,
    "models": _model,
    "consumers": _consumer,
    "apps": _app,
    "users": _user,
}
