"""The gateway's configuration: applications, routes, consumers. Immutable, replaced as a whole."""

from __future__ import annotations

import functools
import re
from typing import TYPE_CHECKING, Literal, NamedTuple
from urllib.parse import quote

from msgspec import Struct

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Mapping

_SEGMENT = re.compile(r"(?!\.{1,2}$)[^/\\\x00-\x1f\x7f]+")
"""A part of a model's name between slashes: not empty, no step up, no control character."""
IMAGE_VERB = "picture"
"""The verb of ``POST /v1/infer`` of a mataserver."""


_quoted = functools.lru_cache(4096)(quote)
"""A model's name in a path; cached, since each request needs it twice."""


class Target(Struct, frozen=True, cache_hash=True):
    """One server that answers for a route.

    host:   a name or an address, without brackets.
    weight: its share of the requests, over 0, beside those of the others.
    rpc:    the port of its gRPC, 0 where it has none.
    token:  the key that it is shown, empty for none.
    kind:   a mataserver loads a model when it is asked for: it has those that it lists. ``own`` is
            this server itself, which is asked without a socket and looked at by itself.
    """

    host: str
    port: int
    weight: float = 1.0
    rpc: int = 0
    token: str = ""
    kind: Literal["triton", "mataserver", "own"] = "triton"

    @property
    def authority(self) -> str:
        """What stands in a URL and in ``Host``."""
        return _authority(self)

    @property
    def rpc_authority(self) -> str:
        """Where its gRPC is."""
        return f"[{self.host}]:{self.rpc}" if ":" in self.host else f"{self.host}:{self.rpc}"

    def key_for(self, consumer: int) -> str:
        """Return the key that it is shown for a consumer: this server itself knows each."""
        return f"{self.token}.{consumer}" if self.kind == "own" else self.token

    @property
    def url(self) -> str:
        """The base URL, without a slash at its end."""
        return _url(self)


@functools.lru_cache(4096)
def _authority(target: Target) -> str:
    """Return host and port; cached, since each request needs them several times."""
    host = f"[{target.host}]" if ":" in target.host else target.host
    return f"{host}:{target.port}"


@functools.lru_cache(4096)
def _url(target: Target) -> str:
    return f"http://{_authority(target)}"


class Release(Struct, frozen=True):
    """A version that gets its share of a route's requests; an empty one is the server's choice."""

    version: str = ""
    weight: float = 1.0


class Route(Struct, frozen=True):
    """A model of an application.

    model:    its name at the targets, which must be sound: see ``is_sound``.
    paths:    the prefixes under which it is asked, each beginning with a slash.
    releases: the versions among which requests that name none are divided.
    mirror:   the version that is sent a copy of each request; its answers are dropped.
    """

    model: str
    paths: tuple[str, ...]
    targets: tuple[Target, ...] = ()
    protocols: frozenset[str] = frozenset({"http"})
    releases: tuple[Release, ...] = (Release(),)
    mirror: str = ""

    def versions(self) -> tuple[str, ...]:
        """Return the versions that requests or their copies may be sent to."""
        mirror = (self.mirror,) if self.mirror else ()
        return (*(each.version for each in self.releases), *mirror)

    def path(self, version: str, verb: str) -> str:
        """Return the path at a target: made of what is known here, never of a request's path."""
        if verb == IMAGE_VERB:
            return "/v1/infer"
        base = f"/v2/models/{_quoted(self.model)}"
        of = f"/versions/{version}" if version else ""
        return f"{base}{of}/{verb}" if verb else base + of


class Application(Struct, frozen=True):
    """What consumers ask. ``timeout`` is in seconds, to the first byte of an answer.

    retries: how often a request is retried at most.
    resend:  whether also one that a server may have received: only where asking twice is harmless.
    """

    name: str
    host: str = ""
    routes: tuple[Route, ...] = ()
    consumers: frozenset[int] = frozenset()
    retries: int = 5
    resend: bool = False
    timeout: float = 60.0


class Consumer(Struct, frozen=True):
    """A caller; ``digest`` is its key's sha256, ``rate`` is a minute's, ``quota`` a day's."""

    id: int
    name: str
    digest: bytes
    rate: int | None = None
    quota: int | None = None


class Place(NamedTuple):
    """A route and the application that it is of."""

    application: Application
    route: Route


class Snapshot:
    """Applications and consumers, found in the same time however many there are.

    hosts:  public host to the places below it, by path.
    names:  the same by the application's name.
    models: places that may be asked by gRPC, by their model.
    peers:  other mataservers, which are looked at whether a route leads to them or not.
    """

    __slots__ = ("applications", "consumers", "hosts", "models", "names", "peers")

    def __init__(
        self,
        applications: Iterable[Application] = (),
        consumers: Iterable[Consumer] = (),
        peers: tuple[Target, ...] = (),
    ) -> None:
        self.peers = peers
        self.applications = tuple(applications)
        self.consumers = {each.digest: each for each in consumers}
        self.names = {each.name: _places(each) for each in self.applications}
        self.hosts: dict[str, dict[str, Place]] = {}
        for each in self.applications:
            if each.host:
                self.hosts.setdefault(each.host.lower().strip("[]"), {}).update(
                    self.names[each.name]
                )

        self.models: dict[str, list[Place]] = {}
        for each in self.applications:
            for route in each.routes:
                if "grpc" in route.protocols:
                    self.models.setdefault(route.model, []).append(Place(each, route))

    def without(self, digests: Container[bytes]) -> Snapshot:
        """Return this without the consumers who have one of these keys."""
        kept = (each for digest, each in self.consumers.items() if digest not in digests)
        return Snapshot(self.applications, kept, self.peers)

    def routes(self) -> Iterable[Route]:
        """Return every route."""
        return (route for each in self.applications for route in each.routes)


def is_sound(model: str) -> bool:
    """Whether a model's name can stand in a path: no step up, nothing empty between slashes."""
    return all(_SEGMENT.fullmatch(part) for part in model.split("/"))


def _places(application: Application) -> Mapping[str, Place]:
    return {
        path.rstrip("/"): Place(application, route)
        for route in application.routes
        for path in route.paths
    }
