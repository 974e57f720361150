"""Hosting of services, the server's own and plugins': create, validate, order, add."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from mataserver import config
from mataserver.app.service_validation import check_openapi, validate_service
from mataserver.config import ConfigError
from mataserver.errors import MataError, NotFound
from mataserver.frontends.resource_ids import EVERY_FRONTEND, SESSIONS_KIND, qualified_id
from mataserver.http.routing import route_pattern
from mataserver.plugin_ends import ends_as_errors
from mataserver.plugins import PluginError, reject, rejecting
from mataserver.tasks import Tasks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from aiohttp import web

    from mataserver.config import Settings
    from mataserver.contract.routes import ErrorForm, Route
    from mataserver.contract.service import Context, Service
    from mataserver.frontends.resource_ids import ResourceIds
    from mataserver.http.auth import Authenticator
    from mataserver.http.routing import Expect, RouteTable
    from mataserver.plugins import Plugin

log = logging.getLogger("mataserver.plugins")


class ServiceFactory(NamedTuple):
    """Creates a service; ``plugin`` is None for the server's own, whose errors stop the start."""

    name: str
    make: Callable[[Context], object]
    plugin: Plugin | None = None


@dataclass(frozen=True, slots=True)
class HostedService:
    """A created service, with its routes."""

    name: str
    service: Service
    routes: tuple[Route, ...]
    forms: Mapping[str, ErrorForm]
    plugin: Plugin | None


class ServiceHost:
    """The services of a server, and their contexts.

    ``services`` are the usable ones by name, in order of entry; ``tasks`` their background tasks.
    """

    def __init__(self, held: ResourceIds) -> None:
        self.services: list[tuple[str, Service]] = []
        self.tasks: list[Tasks] = []
        self._held = held
        self._peers: dict[str, Service] = {}
        self._reconfigurable: list[tuple[Plugin, Any]] = []

    def create(
        self, factories: Iterable[ServiceFactory], make_context: Callable[..., Context]
    ) -> list[HostedService]:
        """Create every service; return them in the order in which they are to be entered.

        Rejects a plugin whose service fails, has a route that exists, or requires a missing one.
        """
        found: dict[str, HostedService] = {}
        shapes, prefixes = set[tuple[str, str]](), set[str]()
        for factory in factories:
            try:
                service = factory.make(self._context(factory, make_context))
                made, routes, forms = validate_service(service, shapes, prefixes)
                routes = tuple(_qualify_held(route, _resource_kind(factory)) for route in routes)
                hosted = HostedService(factory.name, made, routes, forms, factory.plugin)
                if factory.plugin is not None:  # the server's own are checked by tests
                    check_openapi(hosted.routes)
            except (Exception, SystemExit) as error:
                if factory.plugin is None or isinstance(error, ConfigError):
                    raise  # an invalid setting must be corrected by the operator
                reject(factory.plugin, error)
                continue
            shapes |= {route_pattern(route.method, route.path) for route in hosted.routes}
            prefixes.update(hosted.forms)
            found[_registry_name(factory)] = hosted
        _run_admission_checks(found)
        ordered = _sort_by_requirements(found)
        for hosted in ordered:
            self._register(hosted)
        return ordered

    def _register(self, hosted: HostedService) -> None:
        self.services.append((hosted.name, hosted.service))
        if hosted.plugin is not None:
            hosted.plugin.routes = hosted.routes
            self._peers[hosted.name] = hosted.service
            reconfigure = getattr(hosted.service, "reconfigure", None)
            if hosted.plugin.settings is not None and reconfigure is not None:
                self._reconfigurable.append((hosted.plugin, hosted.service))

    @property
    def reconfigurable_sections(self) -> set[str]:
        """The sections of ``plugins:`` that can be reconfigured at run time."""
        return {plugin.section for plugin, _ in self._reconfigurable}

    def reconfigure(self, settings: Settings) -> Callable[[], set[str]]:
        """Validate reread settings with the services; return a function that applies them.

        It returns the sections that changed. Raises a ``MataError`` for invalid ones; then nothing
        has changed.
        """
        applied: list[tuple[Plugin, Any, Callable[[], None]]] = []
        variables = config.variables(Path.cwd())
        for plugin, service in self._reconfigurable:
            given = settings.plugins.get(plugin.section)
            read = config.plugin_settings(given, type(plugin.settings), plugin.section, variables)
            if read != plugin.settings:
                applied.append((plugin, read, _ask_to_apply(plugin, service, read)))

        def apply() -> set[str]:
            return {plugin.section for plugin, read, take in applied if _apply(plugin, read, take)}

        return apply

    def _context(self, factory: ServiceFactory, make_context: Callable[..., Context]) -> Context:
        self.tasks.append(tasks := Tasks(factory.name))
        place = "mataserver" if factory.plugin is None else "mataserver.plugin"
        return make_context(
            settings=None if factory.plugin is None else factory.plugin.settings,
            log=logging.getLogger(f"{place}.{factory.name}"),
            tasks=tasks,
            held=self._held.of_kind(_resource_kind(factory)),
            peer=self.peer,
            peers=lambda: MappingProxyType(self._peers),
        )

    def peer(self, name: str, *, optional: bool = False) -> Service | None:
        """Return the service of a plugin. Raises ``NotFound`` unless it is optional."""
        service = self._peers.get(name)
        if service is None and not optional:
            raise NotFound(f"The plugin {name} is not in use")
        return service


def add_services(
    application: web.Application,
    table: RouteTable,
    gate: Authenticator,
    services: Sequence[HostedService],
    expect: Expect,
) -> None:
    """Add the routes of services to an application, and register their hooks."""
    table.add(application, [route for hosted in services for route in hosted.routes], expect)
    for hosted in services:
        service: Any = hosted.service
        if getattr(service, "authenticate", None):
            gate.authenticators.append(service.authenticate)
            gate.owners.add(getattr(service, "owner_of", None))
        if getattr(service, "claims", None):
            table.claims.append((hosted.name, service.claims))
        table.forms.update(hosted.forms)


def _ask_to_apply(plugin: Plugin, service: Any, read: object) -> Callable[[], None]:
    """Return what makes a plugin use other settings. Raises a ``MataError`` if there is none."""
    try:
        with ends_as_errors():
            return _require_function(service.reconfigure(read))
    except MataError:
        raise
    except Exception as error:
        log.exception("reconfigure() of the plugin %s failed", plugin.name)
        kind = type(error).__name__
        raise MataError(f"the plugin {plugin.name} failed to read it: {kind}") from error


def _require_function(given: Callable[[], None]) -> Callable[[], None]:
    """Return what a plugin gave. Raises ``TypeError`` for anything but a function."""
    if callable(given):
        return given
    raise TypeError(f"it gave a {type(given).__name__}, not a function")


def _apply(plugin: Plugin, read: Any, take: Callable[[], None]) -> bool:
    """Make a plugin use other settings; return whether it does. The others' are applied too."""
    try:
        with ends_as_errors():
            take()
    except Exception:
        log.exception("the plugin %s failed to apply its changed settings", plugin.name)
        return False
    plugin.settings = read
    return True


def _registry_name(factory: ServiceFactory) -> str:
    """Return the name by which others may require a service; the server's own are not plugins."""
    return factory.name if factory.plugin is not None else f"the server's {factory.name}"


def _resource_kind(factory: ServiceFactory) -> str:
    return SESSIONS_KIND if factory.plugin is None else factory.name


def _qualify_held(route: Route, kind: str) -> Route:
    """Qualify a route's ``held`` with the kind of the resource, if it has none."""
    if not route.held or route.held == EVERY_FRONTEND or ":" in route.held:
        return route
    return replace(route, held=qualified_id(kind, route.held))


def _run_admission_checks(found: dict[str, HostedService]) -> None:
    """Let services with ``admits`` inspect the others; reject those that are not admitted."""
    for host in [each for each in found.values() if getattr(each.service, "admits", None)]:
        admitting: Any = host.service
        for name, hosted in list(found.items()):
            if hosted.plugin is None or hosted is host:
                continue
            with rejecting(hosted.plugin):
                admitting.admits(hosted.name, hosted.service)
            if hosted.plugin.error is not None:
                del found[name]


def _sort_by_requirements(found: Mapping[str, HostedService]) -> list[HostedService]:
    """Sort services topologically by ``requires``; reject those that lack a requirement."""
    ordered: list[HostedService] = []
    done: dict[str, bool] = {}

    def visit(name: str, path: tuple[str, ...]) -> str | None:
        """Add a service; return the reason if it cannot be added, else None."""
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
                    reject(hosted.plugin, PluginError(reason))
                return f"it requires the plugin {name}, which is not in use"
        done[name] = True
        ordered.append(hosted)
        return None

    for name in found:
        visit(name, ())
    return ordered
