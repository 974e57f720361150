"""Which route a request means: by its host, or by an application's name in its path.

A path is decoded once and then compared as a whole, so that no spelling of it (``..``, ``%2e``,
``//``) leads anywhere but to a prefix that a route has.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import unquote_to_bytes

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mataserver_fleet.gateway.snapshot import Place, Snapshot

PREFIX = "/gateway/"
VERBS = {"infer": "POST", "ready": "GET", "config": "GET", "stats": "GET", "": "GET"}
"""The endpoints of a model and their methods; the empty one is its description."""
_MAX_VERSION_DIGITS = 18
"""Digits of a version: Python reads no more than some thousand, and no server has so many."""
APPLICATION_PATHS = {"/v2": "server", "/v2/health/live": "live", "/v2/health/ready": "ready"}
"""An application's own paths; a route's path of the same name takes precedence."""


class Scope(NamedTuple):
    """The routes that a request may mean, and its path below a prefix, which selects one."""

    places: Mapping[str, Place]
    path: str
    prefix: str = ""


class RouteMatch(NamedTuple):
    """A route and what is requested of it: ``version`` is empty where none is named."""

    place: Place
    version: str
    verb: str


def find_scope(snapshot: Snapshot, host: str, raw_path: str) -> Scope | None:
    """Return what a request may mean; None where it is none of the gateway's.

    ``host`` is the header, ``raw_path`` the path as it was sent, without its query.
    """
    places = snapshot.hosts.get(host_name(host)) if snapshot.hosts else None
    if places is not None:
        return Scope(places, decode_path(raw_path))
    if not raw_path.startswith(PREFIX):
        return None
    name, _, rest = decode_path(raw_path)[len(PREFIX) :].partition("/")
    return Scope(snapshot.names.get(name, {}), f"/{rest}", PREFIX + name)


def match_route(places: Mapping[str, Place], path: str) -> RouteMatch | None:
    """Return what a path asks, by the longest prefix that a route has."""
    place = places.get("" if path == "/" else path)
    if place is not None:
        return RouteMatch(place, "", "")
    head, _, verb = path.rpartition("/")
    if verb not in VERBS or not verb:
        head, verb = path, ""
    place = places.get(head) if verb else None
    if place is not None:
        return RouteMatch(place, "", verb)
    head, _, version = head.rpartition("/")
    known = version.isascii() and version.isdigit() and len(version) <= _MAX_VERSION_DIGITS
    if not head.endswith("/versions") or not known:
        return None
    place = places.get(head.removesuffix("/versions"))
    return None if place is None else RouteMatch(place, str(int(version)), verb)


def decode_path(raw_path: str) -> str:
    """Return a path without its percent-encoding; what is no UTF-8 becomes what no path has."""
    if "%" not in raw_path:
        return raw_path
    return unquote_to_bytes(raw_path).decode("utf-8", "replace")


def host_name(host: str) -> str:
    """Return the name in a Host header: without a port and the root's dot, in lower case."""
    if host.startswith("["):
        return host.partition("]")[0][1:].lower()
    return host.partition(":")[0].rstrip(".").lower()
