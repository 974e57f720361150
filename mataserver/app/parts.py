"""The parts of a server, created in order of dependency."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiohttp import web

import mataserver
from mataserver import plugins as plugin_host
from mataserver.app import frontends
from mataserver.app.hosting import Given, Hosting
from mataserver.app.lifetime import Composed, lifetime
from mataserver.app.upkeep import Pace, Upkeep
from mataserver.config import ConfigError
from mataserver.config.credentials import KeyRing, server_keys
from mataserver.engines.memory import MemoryProbe
from mataserver.frontends.resource_ids import ResourceIds
from mataserver.http import origins, protocol
from mataserver.http.auth import Gate, Pages
from mataserver.http.browsers import Browsers, Names
from mataserver.http.budget import Budget
from mataserver.http.cookies import Cookies
from mataserver.http.grants import Grants
from mataserver.http.head_cache import HeadCache
from mataserver.http.in_process import Doorway
from mataserver.http.kit import Kit
from mataserver.http.lifecycle import Lifecycle
from mataserver.http.middleware import Edge
from mataserver.http.readiness import Readiness
from mataserver.http.routing import Limits, Table
from mataserver.http.sockets import Sockets
from mataserver.http.stream import Streams
from mataserver.http.stream_channel import Terms
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

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mataserver.config import Settings
    from mataserver.engines.work import Engine
    from mataserver.plugins import Plugins


class Parts:
    """The parts of a server, created in order of dependency."""

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
        self.held = ResourceIds()
        self.sessions = SessionStore(
            self.metrics,
            limit=settings.max_sessions,
            ttl=settings.session_ttl,
            share=settings.caller_share,
            held=self.held,
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
        self.budget = Budget(settings.max_inflight_mb * 1e6, settings.caller_share)
        self.sockets = Sockets(settings.max_body, settings.ping_interval, settings.unread_timeout)
        self.relay = frontends.relay(
            settings, self.pace, self.held, self.table, self.budget, self.sockets, self.metrics
        )
        self.streams = Streams(settings.max_body, self.terms(), self.cameras)
        self.doorway = Doorway()
        self.edge = Edge(
            self.table, self.gate, self.budget, self.lifecycle, self.metrics, self.relay
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
        self.metrics.before_render(self.pool.set_queue_gauges)

    def kit(self) -> Kit:
        """Return the services' interface for requests and answers."""
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
        """Return the common contents of every service's context."""
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
        """Revoke everything based on a principal or a grant."""
        self.browsers.end_all(identity)
        self.grants.end_all(identity)

    def terms(self) -> Terms:
        """Return the common terms of the sessions' sockets."""
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
        """Return the server, without routes."""
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
        application.cleanup_ctx.append(lifetime(composed))
        return composed


def _catalog(settings: Settings, plugins: Plugins) -> Catalog:
    """Return the catalogue; register the defaults on a fresh data directory."""
    registry = Registry(settings.registry_path)
    catalog = Catalog(settings, registry, plugins)
    registry.entries()
    catalog.add_defaults()
    return catalog


def _open_to(settings: Settings) -> Pages | None:
    """Return the web pages allowed to use a server without keys; None for one with keys."""
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
