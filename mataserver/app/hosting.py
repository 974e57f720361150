"""Services, the server's own and those of plugins alike: made, checked, ordered, and added."""

from __future__ import annotations

import asyncio
import functools
import logging
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from mataserver import config
from mataserver.app.checking import check_described, checked
from mataserver.config import ConfigError
from mataserver.contract.service import Context, Server
from mataserver.errors import NotFound
from mataserver.frontends.held import EVERY, SESSIONS, named
from mataserver.http.connection_limit import default_limit
from mataserver.http.routing import shape
from mataserver.plugins import PluginError, refuse
from mataserver.processes.child import run_process
from mataserver.tasks import Tasks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from aiohttp import web

    from mataserver.config import Settings
    from mataserver.contract.routes import ErrorForm, Route
    from mataserver.contract.service import ClusterProcesses, Service
    from mataserver.frontends.held import HeldNames
    from mataserver.http.auth import Gate
    from mataserver.http.kit import Kit
    from mataserver.http.lifecycle import Lifecycle
    from mataserver.http.readiness import Readiness
    from mataserver.http.routing import Expect, Table
    from mataserver.metrics import Metrics
    from mataserver.plugins import Plugin
    from mataserver.serving.feeds.served import ServedSessions
    from mataserver.serving.models import ServedModels

log = logging.getLogger("mataserver.plugins")


class Guest(NamedTuple):
    """A service that is to be made; ``plugin`` is None for one of the server's own.

    What the server's own raise stops the start; a plugin is put out of use.
    """

    name: str
    make: Callable[[Context], object]
    plugin: Plugin | None = None


@dataclass(frozen=True, slots=True)
class Hosted:
    """A service that was made, with its routes."""

    name: str
    service: Service
    routes: tuple[Route, ...]
    forms: Mapping[str, ErrorForm]
    plugin: Plugin | None


def server_of(settings: Settings) -> Server:
    """Return what services may know of the settings."""
    return Server(
        host=settings.host,
        port=settings.port,
        max_body=settings.max_body,
        max_pixels=settings.max_pixels,
        max_tokens=settings.max_tokens,
        queue_limit=settings.queue_limit,
        trust_proxy=settings.trust_proxy,
        auth_mode=settings.auth_mode,
        infer_timeout=settings.infer_timeout,
        load_timeout=settings.load_timeout,
        drain_timeout=settings.drain_timeout,
        unread_timeout=settings.unread_timeout,
        body_timeout=settings.body_timeout,
        max_inflight=int(settings.max_inflight_mb * 1e6),
        max_connections=settings.max_connections or default_limit(),
    )


class Hosting:
    """The services of a server, and what each is given.

    ``services`` are those in use, by name, in the order in which they are entered; ``tasks`` are
    the background tasks of each.
    """

    def __init__(self, settings: Settings, version: str, lifecycle: Lifecycle) -> None:
        self.services: list[tuple[str, Service]] = []
        self.tasks: list[Tasks] = []
        self._server = server_of(settings)
        self._data_dir = settings.data_path
        self._inherit = settings.inherit_variables
        self._version = version
        self._lifecycle = lifecycle
        self._peers: dict[str, Service] = {}
        self._followers: list[tuple[Plugin, Any]] = []

    def open(self, guests: Iterable[Guest], given: Given) -> list[Hosted]:
        """Make every service; return them in the order in which they are to be entered.

        A plugin whose service fails, gives a route that exists, or requires one that is not there,
        is put out of use.
        """
        found: dict[str, Hosted] = {}
        shapes: set[tuple[str, str]] = set()
        for guest in guests:
            try:
                service = guest.make(self._context(guest, given))
                made, routes, forms = checked(service, shapes)
                routes = tuple(_held(route, _kind(guest)) for route in routes)
                hosted = Hosted(guest.name, made, routes, forms, guest.plugin)
                if guest.plugin is not None:  # ours are described by the tests
                    check_described(hosted.routes)
            except (Exception, SystemExit) as error:
                if guest.plugin is None or isinstance(error, ConfigError):
                    raise  # a setting that is wrong is the operator's to mend
                refuse(guest.plugin, error)
                continue
            shapes |= {shape(route.method, route.path) for route in hosted.routes}
            found[_key(guest)] = hosted
        _look_at_peers(found)
        ordered = _ordered(found)
        for hosted in ordered:
            self._note(hosted)
        return ordered

    def _note(self, hosted: Hosted) -> None:
        self.services.append((hosted.name, hosted.service))
        if hosted.plugin is not None:
            hosted.plugin.routes = hosted.routes
            self._peers[hosted.name] = hosted.service
            if hosted.plugin.settings is not None and hasattr(hosted.service, "reconfigure"):
                self._followers.append((hosted.plugin, hosted.service))

    @property
    def reconfigured(self) -> set[str]:
        """The sections of ``plugins:`` that are followed while the server runs."""
        return {plugin.section for plugin, _ in self._followers}

    def reconfigure(self, settings: Settings) -> Callable[[], None]:
        """Have services look at their settings that were read anew; return what has them count.

        Raises a ``MataError`` for wrong ones: then nothing has changed.
        """
        applied: list[tuple[Plugin, Any, Callable[[], None]]] = []
        variables = config.variables(Path.cwd())
        for plugin, service in self._followers:
            given = settings.plugins.get(plugin.section)
            kind = type(plugin.settings)
            read = config.plugin_settings(given, kind, plugin.section, variables)
            if read != plugin.settings:
                applied.append((plugin, read, service.reconfigure(read)))

        def apply() -> None:
            for plugin, read, take in applied:
                plugin.settings = read
                take()

        return apply

    def _context(self, guest: Guest, given: Given) -> Context:
        tasks = Tasks(guest.name)
        self.tasks.append(tasks)
        place = "mataserver" if guest.plugin is None else "mataserver.plugin"
        return Context(
            settings=None if guest.plugin is None else guest.plugin.settings,
            server=self._server,
            version=self._version,
            log=logging.getLogger(f"{place}.{guest.name}"),
            data_dir=self._data_dir,
            metrics=given.metrics.registry,
            models=given.models,
            sessions=given.sessions,
            http=given.kit,
            tasks=tasks,
            run_process=functools.partial(run_process, inherit=self._inherit),
            cluster=given.cluster,
            held=given.held.of(_kind(guest)),
            run_blocking=asyncio.to_thread,
            stopping=self._lifecycle.stopping,
            authenticate=lambda credentials: given.gate.authenticate([credentials]),
            admit=given.gate.admit_call,
            count=given.metrics.count,
            sign_out=given.sign_out,
            ready=given.readiness.waiting,
            peer=self.peer,
            peers=lambda: MappingProxyType(self._peers),
            address=self._lifecycle.address,
        )

    def peer(self, name: str, *, optional: bool = False) -> Service | None:
        """Return the service of a plugin. Raises ``NotFound`` unless it is optional."""
        service = self._peers.get(name)
        if service is None and not optional:
            raise NotFound(f"The plugin {name} is not in use")
        return service


class Given(NamedTuple):
    """What every service is given through its context."""

    models: ServedModels
    sessions: ServedSessions
    kit: Kit
    metrics: Metrics
    gate: Gate
    sign_out: Callable[[str], None]
    readiness: Readiness
    cluster: Callable[[], ClusterProcesses]
    held: HeldNames


def add(
    application: web.Application,
    table: Table,
    gate: Gate,
    services: Sequence[Hosted],
    expect: Expect,
) -> None:
    """Add the routes of services to an application, and take in what they offer beside them."""
    table.add(application, [route for hosted in services for route in hosted.routes], expect)
    for hosted in services:
        service: Any = hosted.service
        if hasattr(service, "authenticate"):
            gate.services.append(service.authenticate)
            gate.owners.add(getattr(service, "owner_of", None))
        if hasattr(service, "claims"):
            table.claims.append(service.claims)
        table.forms.update(hosted.forms)


def _key(guest: Guest) -> str:
    """Return the name by which others require a service: those of the server are not plugins."""
    return guest.name if guest.plugin is not None else f"the server's {guest.name}"


def _kind(guest: Guest) -> str:
    """Return of which kind the things are that a service holds by ids."""
    return SESSIONS if guest.plugin is None else guest.name


def _held(route: Route, kind: str) -> Route:
    """Return a route that says of which kind the things are that it names by their ids."""
    if not route.held or route.held == EVERY or ":" in route.held:
        return route
    return replace(route, held=named(kind, route.held))


def _look_at_peers(found: dict[str, Hosted]) -> None:
    """Have services that wish it look at the others; whom one does not admit is put out of use."""
    for host in [each for each in found.values() if hasattr(each.service, "admits")]:
        judge: Any = host.service
        for name, hosted in list(found.items()):
            if hosted.plugin is None or hosted is host:
                continue
            try:
                judge.admits(hosted.name, hosted.service)
            except (Exception, SystemExit) as error:
                refuse(hosted.plugin, error)
                del found[name]


def _ordered(found: Mapping[str, Hosted]) -> list[Hosted]:
    """Return services with what each requires before it; one that lacks something is refused."""
    ordered: list[Hosted] = []
    done: dict[str, bool] = {}

    def visit(name: str, path: tuple[str, ...]) -> str | None:
        """Add a service; return why it cannot be, or None."""
        if name in path:
            return f"it requires itself: {' → '.join((*path[path.index(name) :], name))}"
        if name not in found:
            return f"it requires the plugin {name}, which is not in use"
        if name in done:
            return None if done[name] else f"it requires the plugin {name}, which is not in use"
        hosted = found[name]
        for needed in getattr(hosted.service, "requires", ()):
            reason = visit(needed, (*path, name))
            if reason is not None:
                done[name] = False
                if hosted.plugin is not None:
                    refuse(hosted.plugin, PluginError(reason))
                return f"it requires the plugin {name}, which is not in use"
        done[name] = True
        ordered.append(hosted)
        return None

    for name in found:
        visit(name, ())
    return ordered
