"""Composition: settings and plugins to a server. What it is made of, no request can reach."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec
from aiohttp import web

import mataserver
from mataserver import plugins as plugin_host
from mataserver.app import frontends, hosting
from mataserver.app.deadline import in_time
from mataserver.app.hosting import Given, Guest, Hosting
from mataserver.app.upkeep import Pace, Upkeep
from mataserver.config import ConfigError
from mataserver.config.credentials import KeyRing, server_keys
from mataserver.engines.memory import MemoryProbe
from mataserver.frontends.held import HeldNames
from mataserver.http import dialects, middleware, openapi, origins, protocol
from mataserver.http.auth import Gate, Pages
from mataserver.http.browsers import Browsers, Names
from mataserver.http.budget import Budget
from mataserver.http.channel import Terms
from mataserver.http.cluster import ClusterService
from mataserver.http.cookies import Cookies
from mataserver.http.docs import DocsService
from mataserver.http.grants import Grants
from mataserver.http.heads import HeadCache
from mataserver.http.health import HealthService
from mataserver.http.infer import InferService
from mataserver.http.kit import Kit
from mataserver.http.lifecycle import Lifecycle
from mataserver.http.login import LoginService
from mataserver.http.middleware import Edge
from mataserver.http.models import ModelsService
from mataserver.http.pages import PagesService
from mataserver.http.pipes import Doorway
from mataserver.http.readiness import Readiness
from mataserver.http.routing import Limits, Table
from mataserver.http.sessions import SessionsService
from mataserver.http.settings import SettingsService
from mataserver.http.sockets import Sockets
from mataserver.http.stream import Streams, StreamService
from mataserver.library.catalog import Catalog
from mataserver.library.registry import Registry
from mataserver.metrics import Metrics
from mataserver.outbound import Hosts, Outbound
from mataserver.serving.feeds.registry import CameraRegistry
from mataserver.serving.feeds.served import ServedSessions
from mataserver.serving.loader import Loader
from mataserver.serving.models import ServedModels
from mataserver.serving.observers import Observers
from mataserver.serving.pool import ModelPool
from mataserver.serving.sessions import SessionStore
from mataserver.serving.slots import PoolPolicy
from mataserver.tasks import Tasks

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Mapping

    from mataserver.config import SetBy, Settings
    from mataserver.contract.service import Service
    from mataserver.engines.work import Engine
    from mataserver.plugins import Plugins


@dataclass(slots=True)
class Composed:
    """A server that was composed: who starts and stops it holds this, and no handler does."""

    settings: Settings
    application: web.Application
    lifecycle: Lifecycle
    plugins: Plugins
    catalog: Catalog
    pool: ModelPool
    loader: Loader
    sessions: SessionStore
    cameras: CameraRegistry
    gate: Gate
    budget: Budget
    sockets: Sockets
    upkeep: Upkeep
    hosting: Hosting
    observers: Observers
    table: Table
    doorway: Doorway
    edge: Edge
    heads: HeadCache
    pulls: set[asyncio.Task[Any]] = field(default_factory=set)
    giving_up: asyncio.Task[None] | None = None
    document: bytes = b""

    def described(self) -> bytes:
        """Return the OpenAPI document of every route, made when it is first asked for.

        Few starts are followed by somebody who reads it. Any thread may call it.
        """
        if not self.document:
            found = openapi.document(self.table.routes, mataserver.__version__)
            self.document = msgspec.json.encode(found)
        return self.document


def build(
    settings: Settings,
    plugins: Plugins | None = None,
    probe: MemoryProbe | None = None,
    pace: Pace | None = None,
    set_by: Mapping[str, SetBy] | None = None,
    engines: Mapping[str, Engine] | None = None,
) -> Composed:
    """Compose a server; ``set_by`` tells where the settings came from.

    ``engines`` stand in for its own, by name. Registers the defaults on a fresh data directory.
    Raises a ``MataError`` for settings, a registry or a plugin (``plugins.strict``) that cannot be
    used.
    """
    parts = _Parts(settings, plugins, probe, pace, engines)
    composed = parts.composed()
    guests = (*_own(parts, composed, set_by or {}), *_plugins(parts.plugins))
    asked = middleware.expectations(parts.table, parts.gate, parts.elsewhere)
    expect = dialects.expecting(asked, parts.table.forms)
    hosting.add(
        composed.application,
        parts.table,
        parts.gate,
        parts.hosting.open(guests, parts.given()),
        expect,
    )
    parts.plugins.check_strict()
    return composed


class _Parts:
    """What a server is made of, each made of those before it."""

    def __init__(
        self,
        settings: Settings,
        plugins: Plugins | None,
        probe: MemoryProbe | None,
        pace: Pace | None,
        engines: Mapping[str, Engine] | None,
    ) -> None:
        self.settings, self.pace = settings, pace or Pace()
        self.plugins = plugin_host.discover(settings) if plugins is None else plugins
        self.catalog = _catalog(settings, self.plugins)
        self.metrics, self.memory = Metrics(), probe or MemoryProbe()
        self.loader = Loader(settings, self.memory, engines)
        self.pool = ModelPool(self.loader.load, self.memory, self.metrics, _policy(settings))
        self.models = ServedModels(self.catalog, self.pool, self.metrics, settings.max_tokens)
        self.held = HeldNames()
        self.sessions = SessionStore(
            self.metrics, limit=settings.max_sessions, ttl=settings.session_ttl, held=self.held
        )
        self.observers = Observers(self.metrics, infer=settings.observe_infer)
        self.cameras = CameraRegistry(self.sessions, self.metrics, self.observers)
        self.lifecycle = Lifecycle()
        self.browsers = Browsers()
        self.cookies = Cookies(self.browsers, trust_proxy=settings.trust_proxy)
        self.grants = Grants()
        self.gate = Gate(
            KeyRing(server_keys(settings)[0]),
            self.browsers,
            self.grants,
            open_to=_open_to(settings),
            trust_proxy=settings.trust_proxy,
        )
        self.table = Table(Limits(settings.max_body, settings.body_timeout, idle=False))
        self.table.awaited = self.plugins.awaited
        self.budget = Budget(settings.max_inflight_mb * 1e6)
        self.sockets = Sockets(settings.max_body, settings.ping_interval, settings.unread_timeout)
        self.elsewhere = frontends.elsewhere(
            settings, self.pace, self.held, self.table, self.budget, self.sockets, self.metrics
        )
        self.streams = Streams(settings.max_body, self.terms(), self.cameras)
        self.doorway = Doorway()
        self.edge = Edge(
            self.table, self.gate, self.budget, self.lifecycle, self.metrics, self.elsewhere
        )
        self.hosting = Hosting(settings, mataserver.__version__, self.lifecycle)
        self.readiness = Readiness(
            self.catalog,
            self.pool,
            self.lifecycle,
            self.hosting.services,
            self.hosting.tasks,
            self.loader.waiting,
        )
        self.upkeep = Upkeep(self.catalog, self.pool, self.readiness.not_ready, self.pace)
        self.upkeep.add_configured()
        self.metrics.before_render(self.cameras.count)
        self.metrics.before_render(lambda: self.metrics.inflight.set(self.budget.taken))
        self.metrics.before_render(self.pool.tell_queues)

    def kit(self) -> Kit:
        """Return what services read requests and write answers with."""
        return Kit(
            self.table,
            self.budget,
            self.sockets,
            Outbound(_hosts(self.settings)),
            self.cookies,
            self.doorway,
            trust_proxy=self.settings.trust_proxy,
            cors_origins=self.settings.cors_origins,
        )

    def given(self) -> Given:
        """Return what every service is given."""
        return Given(
            self.models,
            ServedSessions(self.sessions, self.models, self.cameras, self.streams.serve),
            self.kit(),
            self.metrics,
            self.gate,
            self._sign_out,
            self.readiness,
            self.loader.cluster,
            self.held,
        )

    def _sign_out(self, identity: str) -> None:
        """End what rests on a principal or a grant that counts no more."""
        self.browsers.end_all(identity)
        self.grants.end_all(identity)

    def terms(self) -> Terms:
        """Return what the sockets of sessions share."""
        return Terms(
            self.sessions,
            self.budget,
            self.lifecycle,
            self.observers,
            self.settings.ping_interval,
            self.settings.unread_timeout,
            self.settings.drain_timeout,
        )

    def composed(self) -> Composed:
        """Return the server, without a route yet."""
        application = web.Application(
            middlewares=[self.edge.middleware],
            client_max_size=self.settings.max_body,
        )
        origins.allow(application, self.settings.cors_origins)
        protocol.unsigned(application)
        composed = Composed(
            self.settings,
            application,
            self.lifecycle,
            self.plugins,
            self.catalog,
            self.pool,
            self.loader,
            self.sessions,
            self.cameras,
            self.gate,
            self.budget,
            self.sockets,
            self.upkeep,
            self.hosting,
            self.observers,
            self.table,
            self.doorway,
            self.edge,
            HeadCache(self.edge),
        )
        application.cleanup_ctx.append(_lifetime(composed))
        return composed


def _own(parts: _Parts, composed: Composed, set_by: Mapping[str, SetBy]) -> Iterator[Guest]:
    """Yield the server's own services; of routes that fit both, those of the first count."""
    services, settings, elsewhere = parts.hosting.services, parts.settings, parts.elsewhere
    if elsewhere is not None:
        yield frontends.guest(settings, parts.pace, elsewhere, parts.sessions, parts.metrics)
    yield Guest(
        "health",
        partial(
            HealthService,
            readiness=parts.readiness,
            plugins=parts.plugins,
            probe=parts.memory,
            metrics=parts.metrics,
            services=services,
            status=settings.health_status,
            metrics_public=settings.metrics_public,
        ),
    )
    yield Guest("models", partial(ModelsService, models=parts.models, pulls=composed.pulls))
    yield Guest("infer", partial(InferService, models=parts.models, observers=parts.observers))
    yield Guest(
        "sessions",
        partial(
            SessionsService,
            models=parts.models,
            sessions=parts.sessions,
            cameras=parts.cameras,
            services=services,
        ),
    )
    yield Guest("stream", partial(StreamService, streams=parts.streams))
    yield Guest(
        "login",
        partial(LoginService, gate=parts.gate, browsers=parts.browsers, cookies=parts.cookies),
    )
    yield Guest("pages", lambda _: PagesService(services))
    yield Guest(
        "settings",
        lambda _: SettingsService(lambda: parts.catalog.settings, set_by, parts.plugins),
    )
    ray = parts.loader.ray
    if ray is not None:
        yield Guest("cluster", lambda _: ClusterService(ray, parts.metrics))
    yield Guest("docs", lambda _: DocsService(composed.described))


def _plugins(plugins: Plugins) -> Iterator[Guest]:
    """Yield the services of the plugins in use."""
    for plugin in plugins.usable:
        if "service" in plugin.hooks:
            yield Guest(plugin.name, plugin.hooks["service"], plugin)


def _catalog(settings: Settings, plugins: Plugins) -> Catalog:
    """Return the catalogue, with the defaults on a fresh data directory."""
    registry = Registry(settings.registry_path)
    catalog = Catalog(settings, registry, plugins)
    registry.entries()
    catalog.add_defaults()
    return catalog


def _open_to(settings: Settings) -> Pages | None:
    """Return which web pages may use a server that asks for no key; None for one that does."""
    if settings.auth_mode != "none":
        return None
    known = not settings.trust_proxy or settings.allowed_hosts
    names = Names([settings.host, *settings.allowed_hosts]) if known else None
    return Pages(names, frozenset(settings.cors_origins))


def _hosts(settings: Settings) -> Hosts:
    try:
        return Hosts.of(settings.outbound_hosts)
    except ValueError as error:
        raise ConfigError(f"configuration: outbound_hosts: {error}") from None


def _policy(settings: Settings) -> PoolPolicy:
    return PoolPolicy(
        keep_alive=settings.keep_alive,
        min_residence=settings.min_residence,
        load_timeout=settings.load_timeout,
        queue_limit=settings.queue_limit,
        ram_fraction=settings.max_ram_fraction,
        vram_fraction=settings.max_vram_fraction,
        device=settings.device,
        engine=settings.engine,
    )


def _lifetime(composed: Composed) -> Callable[[web.Application], AsyncIterator[None]]:
    """Return what runs while the server does: background tasks, services, preloads, clean-up."""

    async def lifetime(_application: web.Application) -> AsyncIterator[None]:
        own, upkeep = Tasks("server"), composed.upkeep
        composed.hosting.tasks.append(own)
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(_stop, composed)
            composed.loader.open()
            own.spawn(upkeep.reconcile(), "follow the registry")
            own.spawn(upkeep.preload(), "preload")
            try:
                for name, service in composed.hosting.services:
                    await _enter(name, service)
                    stack.push_async_callback(_leave, composed, name, service)
                    if hasattr(service, "on_result"):
                        composed.observers.add(name, service.on_result, own)
                yield
            finally:
                deadline = composed.lifecycle.deadline
                for each in reversed(composed.hosting.tasks):
                    await in_time(deadline, f"tasks of {each.owner}", each.close())

    return lifetime


async def _enter(name: str, service: Service) -> None:
    """Start a service. What it raises, told by a traceback, gets a line that names it."""
    try:
        await service.__aenter__()
    except Exception as error:
        error.add_note(f"The server does not start: the service of {name} failed to.")
        raise


async def _leave(composed: Composed, name: str, service: Service) -> None:
    ending = service.__aexit__(None, None, None)
    await in_time(composed.lifecycle.deadline, name, ending)


async def _stop(composed: Composed) -> None:
    """Give up every session, model and worker, also when a service failed to start."""
    try:
        await _end(composed)
    finally:
        if composed.giving_up is not None:
            composed.giving_up.cancel()


async def _end(composed: Composed) -> None:
    deadline = composed.lifecycle.deadline
    for pull in composed.pulls:
        pull.cancel()
    pulls = asyncio.gather(*composed.pulls, return_exceptions=True)
    await in_time(deadline, "a pull", pulls)
    await in_time(deadline, "the sessions", composed.sessions.close())
    await in_time(deadline, "the models", composed.pool.close())
    await in_time(deadline, "the workers", composed.loader.close())
