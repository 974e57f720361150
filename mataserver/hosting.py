"""Services of plugins: asked for, checked, put into their order, and added to the application."""

from __future__ import annotations

import asyncio
import functools
import logging
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from aiohttp import web

from mataserver.errors import NotFound
from mataserver.http.kit import Kit
from mataserver.http.readiness import waiting
from mataserver.http.routing import ALTERNATIVES, TABLE
from mataserver.plugins import PluginError, refuse, shape
from mataserver.processes import run_process
from mataserver.service import Context, Route, Server, Service
from mataserver.tasks import Tasks

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mataserver.http.dialects import Expect
    from mataserver.http.routing import State
    from mataserver.plugins import Plugin

log = logging.getLogger("mataserver.plugins")


class Hosting:
    """Makes the services of the plugins and gives each its context."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._peers: dict[str, Service] = {}
        settings = state.settings
        self._server = Server(
            host=settings.host,
            port=settings.port,
            max_body=settings.max_body,
            max_tokens=settings.max_tokens,
            queue_limit=settings.queue_limit,
            trust_proxy=settings.trust_proxy,
            auth_mode=settings.auth_mode,
            infer_timeout=settings.infer_timeout,
            load_timeout=settings.load_timeout,
            drain_timeout=settings.drain_timeout,
            unread_timeout=settings.unread_timeout,
        )

    def services(self, taken: Iterable[Route]) -> list[tuple[Plugin, Service]]:
        """Return every plugin's service, in the order in which they are entered.

        A plugin whose service fails, gives a route that exists, or requires one that is not there,
        is put out of use. Raises ``PluginError`` for it when ``plugins.strict`` is set.
        """
        found: dict[str, tuple[Plugin, Service]] = {}
        shapes = {shape(route.method, route.path) for route in taken}
        for plugin in self._state.plugins.usable:
            hook = plugin.hooks.get("service")
            if hook is None:
                continue
            try:
                service = hook(self._context(plugin))
                plugin.routes = _routes(service, shapes)
            except Exception as error:
                refuse(plugin, error)
                continue
            shapes |= {shape(route.method, route.path) for route in plugin.routes}
            found[plugin.name] = (plugin, service)
        ordered = _ordered(found)
        self._peers.update({plugin.name: service for plugin, service in ordered})
        self._state.plugins.check_strict()
        return ordered

    def _context(self, plugin: Plugin) -> Context:
        state, tasks = self._state, Tasks(plugin.name)
        state.tasks.append(tasks)
        return Context(
            settings=plugin.settings,
            server=self._server,
            version=state.version,
            log=logging.getLogger(f"mataserver.plugin.{plugin.name}"),
            data_dir=state.settings.data_path,
            metrics=state.metrics.registry,
            models=state.models,
            http=Kit(state, state.sockets, state.outbound),
            tasks=tasks,
            run_process=functools.partial(run_process, inherit=state.settings.inherit_variables),
            run_blocking=asyncio.to_thread,
            stopping=state.stopping,
            authenticate=lambda credentials: state.gate.authenticate([credentials]),
            sign_out=state.browsers.end_all,
            ready=lambda: waiting(state),
            peer=self._peer,
            peers=lambda: MappingProxyType(self._peers),
            address=self._address,
        )

    async def _address(self) -> str:
        """Return the base URL by which this machine reaches the server, once it listens."""
        await self._state.listening.wait()
        return self._state.url

    def _peer(self, name: str, *, optional: bool = False) -> Service | None:
        """Return the service of another plugin. Raises ``NotFound`` unless it is optional."""
        service = self._peers.get(name)
        if service is None and not optional:
            raise NotFound(f"The plugin {name} is not in use")
        return service


def add(application: web.Application, routes: Iterable[Route], expect: Expect) -> None:
    """Add routes to an application, and what is known of them to its table."""
    table = application[TABLE]
    for route in routes:
        if route.when is not None:
            _add_alternative(application, route)
            continue
        for method in _methods(route):
            added = application.router.add_route(
                method, route.path, route.handler, expect_handler=expect
            )
            table[added] = route


def _add_alternative(application: web.Application, route: Route) -> None:
    wanted = shape(route.method, route.path)
    for added, known in application[TABLE].items():
        if shape(added.method, known.path) == wanted:
            application[ALTERNATIVES].setdefault(added, []).append(route)


def _methods(route: Route) -> tuple[str, ...]:
    """A GET that gives a document also answers HEAD; a WebSocket gives none."""
    return ("GET", "HEAD") if route.method == "GET" and route.response else (route.method,)


def _routes(service: object, taken: set[tuple[str, str]]) -> tuple[Route, ...]:
    """Return a service's routes. Raises ``PluginError`` for a taken or empty claim."""
    if not isinstance(service, Service):
        raise PluginError("service() must return an object with routes() and async enter and exit")
    routes = tuple(each for given in service.routes() for each in _described(given))
    seen = set(taken)
    for route in routes:
        own = shape(route.method, route.path)
        exists = own in seen or ("*", own[1]) in seen
        if exists and route.when is None:
            raise PluginError(f"its route exists already: {route.method} {route.path}")
        if not exists and route.when is not None:
            raise PluginError(f"its route claims none that exists: {route.method} {route.path}")
        seen.add(own)
    return routes


def _described(given: Any) -> tuple[Route, ...]:
    """Return what a service gave as routes: a ``RouteDef`` is served and not documented."""
    if isinstance(given, Route):
        return (given,)
    if not isinstance(given, web.RouteDef):
        raise PluginError(f"routes() gave a {type(given).__name__}, not a mataserver.Route")
    route = Route(given.method, given.path, given.handler, documented=False)
    if given.method == "GET" and given.kwargs.get("allow_head", False):
        return (route, Route("HEAD", given.path, given.handler, documented=False))
    return (route,)


def _ordered(found: dict[str, tuple[Plugin, Service]]) -> list[tuple[Plugin, Service]]:
    """Return services with what each requires before it; one that lacks something is refused."""
    ordered: list[tuple[Plugin, Service]] = []
    done: dict[str, bool] = {}

    def visit(name: str, path: tuple[str, ...]) -> str | None:
        """Add a service; return why it cannot be, or None."""
        if name in path:
            return f"it requires itself: {' → '.join((*path[path.index(name) :], name))}"
        if name not in found:
            return f"it requires the plugin {name}, which is not in use"
        if name in done:
            return None if done[name] else f"it requires the plugin {name}, which is not in use"
        plugin, service = found[name]
        for needed in getattr(service, "requires", ()):
            reason = visit(needed, (*path, name))
            if reason is not None:
                done[name] = False
                refuse(plugin, PluginError(reason))
                return f"it requires the plugin {name}, which is not in use"
        done[name] = True
        ordered.append((plugin, service))
        return None

    for name in found:
        visit(name, ())
    return ordered
