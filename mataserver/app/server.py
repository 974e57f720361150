"""A composed server: its parts, created in order of dependency."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec
from aiohttp import web

import mataserver
from mataserver import plugins as plugin_host
from mataserver.app.hosting import ServiceHost
from mataserver.app.maintenance import Maintenance, MaintenanceIntervals
from mataserver.config.credentials import KeyRing, server_keys
from mataserver.contract.service import Context, Server
from mataserver.engines.memory import MemoryProbe
from mataserver.frontends.directory import FOLDER, FrontendDirectory
from mataserver.frontends.resource_ids import ResourceIds
from mataserver.http import openapi, origins, protocol
from mataserver.http.auth import AllowedPages, Authenticator
from mataserver.http.browsers import BrowserSessions, HostNames
from mataserver.http.budget import Budget, inflight_limit
from mataserver.http.connection_limit import UNLIMITED, default_limit
from mataserver.http.cookies import Cookies
from mataserver.http.head_cache import HeadCache
from mataserver.http.in_process import InProcessConnector
from mataserver.http.lifecycle import Lifecycle
from mataserver.http.middleware import RequestMiddleware
from mataserver.http.pages import ServedPages
from mataserver.http.readiness import Readiness
from mataserver.http.relay import FrontendRelay
from mataserver.http.revocation import Revocations
from mataserver.http.routing import BodyLimits, Router, RouteTable
from mataserver.http.service_http import ServiceHttp
from mataserver.http.sockets import ServiceSockets
from mataserver.http.stream import StreamService
from mataserver.http.stream_channel import StreamSettings
from mataserver.library.catalog import Catalog
from mataserver.library.registry import Registry
from mataserver.metrics import Metrics
from mataserver.outbound import Hosts, Outbound
from mataserver.processes.child import run_process
from mataserver.serving.engine_set import EngineSet
from mataserver.serving.loader import Loader
from mataserver.serving.models import ServedModels
from mataserver.serving.observers import Observers
from mataserver.serving.pool import ModelPool
from mataserver.serving.served_sessions import ServedSessions
from mataserver.serving.sessions import SessionStore
from mataserver.serving.slots import PoolPolicy

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from mataserver.config import SetBy, Settings
    from mataserver.engines.work import Engine
    from mataserver.plugins import Plugins


class ComposedServer:
    """A server's parts, for the code that starts and stops it; handlers have no access."""

    def __init__(
        self,
        settings: Settings,
        plugins: Plugins | None,
        probe: MemoryProbe | None,
        pace: MaintenanceIntervals | None,
        engines: Mapping[str, Engine] | None,
        *,
        set_by: Mapping[str, SetBy] | None,
        environ: Mapping[str, str] | None,
    ) -> None:
        self.pace = pace or MaintenanceIntervals()
        self.plugins = plugin_host.discover(settings) if plugins is None else plugins
        settings, self.set_by = plugin_host.settle_auth_mode(
            settings, set_by, self.plugins, environ
        )
        self.settings, self.environ = settings, environ
        self._keys, made = server_keys(settings)
        self.new_key = self._keys[0].key if made else None
        self.catalog = _catalog(settings, self.plugins)
        self.metrics, self.memory = Metrics(), probe or MemoryProbe()
        self.engines = EngineSet(settings, self.plugins, engines)
        self.pool = _pool(settings, self.memory, self.engines, self.metrics)
        self.models = ServedModels(self.catalog, self.pool, self.metrics, settings.max_tokens)
        self.held = ResourceIds()
        self.sessions = _sessions(settings, self.metrics, self.held)
        self.observers = Observers(self.metrics, infer=settings.observe_infer)
        self.lifecycle, self.browsers = Lifecycle(), BrowserSessions()
        self.cookies = Cookies(self.browsers, trust_proxy=settings.trust_proxy)
        self.grants = Revocations()
        self.gate = self._gate()
        self.table = RouteTable(BodyLimits(settings.max_body, settings.body_timeout, idle=False))
        self.table.restart_reason = self.plugins.late_service_hint
        self.budget = Budget(inflight_limit(settings), settings.caller_share)
        self.sockets = ServiceSockets(
            settings.max_body, settings.ping_interval, settings.unread_timeout
        )
        self.relay = None if settings.shared_dir is None else self._relay()
        self.streams = StreamService(settings.max_body, self.stream_settings())
        self.served_sessions = ServedSessions(
            self.sessions, self.models, self.metrics, self.observers, self.streams.serve
        )
        self.in_process = InProcessConnector()
        self.middleware = RequestMiddleware(
            self.table, self.gate, self.budget, self.lifecycle, self.metrics, self.relay
        )
        self.heads = HeadCache(self.middleware)
        self.application = self._application()
        self.hosting = ServiceHost(self.held)
        self.pages = ServedPages(self.hosting.services, self.table.serves)
        self.readiness = self._readiness()
        self.maintenance = Maintenance(self.catalog, self.pool, self.readiness.not_ready, self.pace)
        self.maintenance.add_configured()
        self.metrics.registry.before_collect(self.served_sessions.count_cameras)
        self.metrics.registry.before_collect(lambda: self.metrics.inflight.set(self.budget.taken))
        self.metrics.registry.before_collect(self.pool.set_queue_gauges)
        self.pulls: set[asyncio.Task[Any]] = set()
        self.shutdown_task: asyncio.Task[None] | None = None
        self.server_settings = _server_settings(settings)
        self._document = b""
        self._described_tasks: dict[str, Any] = {}

    def openapi_document(self) -> bytes:
        """Return the OpenAPI document of every route, built at the first call.

        Lazily, as most servers are never asked for it. May be called from any thread.
        """
        task_outputs = self.plugins.own_result_types
        if not self._document or self._described_tasks != task_outputs:  # a plugin may come later
            version, self._described_tasks = mataserver.__version__, task_outputs
            limited = bool(self.gate.authenticators)
            found = openapi.document(self.table.routes, version, task_outputs, limited=limited)
            self._document = msgspec.json.encode(found)
        return self._document

    def context(self) -> Callable[..., Context]:
        """Return what makes a service's context from what is its own."""
        return partial(
            Context,
            server=self.server_settings,
            version=mataserver.__version__,
            data_dir=self.settings.data_path,
            metrics=self.metrics.registry,
            models=self.models,
            sessions=self.served_sessions,
            http=self._http(),
            run_process=partial(run_process, inherit=self.settings.inherit_variables),
            cluster=self.engines.cluster,
            engine=self.engines.running,
            run_blocking=asyncio.to_thread,
            stopping=self.lifecycle.stopping,
            authenticate=lambda credentials: self.gate.authenticate([credentials]),
            admit=self.gate.admit_call,
            watch=self.grants.watched,
            count=self.metrics.count,
            sign_out=self._sign_out,
            ready=self.readiness.waiting,
            address=self.lifecycle.address,
        )

    def _http(self) -> ServiceHttp:
        return ServiceHttp(
            self.table,
            self.budget,
            self.sockets,
            Outbound(Hosts.of(self.settings.outbound_hosts)),
            self.cookies,
            self.in_process,
            trust_proxy=self.settings.trust_proxy,
            cors_origins=self.settings.cors_origins,
        )

    def _sign_out(self, identity: str) -> None:
        """Revoke everything based on a principal or a grant."""
        self.browsers.end_all(identity)
        self.grants.end_all(identity)

    def stream_settings(self) -> StreamSettings:
        """Return the common terms of the sessions' sockets."""
        return StreamSettings(
            self.sessions,
            self.budget,
            self.lifecycle,
            self.observers,
            self.settings.ping_interval,
            self.settings.unread_timeout,
            self.settings.drain_timeout,
        )

    def _gate(self) -> Authenticator:
        return Authenticator(
            KeyRing(self._keys),
            self.browsers,
            self.grants,
            allowed=_allowed_pages(self.settings),
            trust_proxy=self.settings.trust_proxy,
        )

    def _relay(self) -> FrontendRelay:
        folder = self.settings.shared_path / FOLDER
        return FrontendRelay(
            FrontendDirectory(folder, self.held, self.pace.silence),
            self.table,
            self.budget,
            self.sockets,
            self.metrics,
            self.settings.unread_timeout,
            trust_proxy=self.settings.trust_proxy,
        )

    def _application(self) -> web.Application:
        application = web.Application(
            middlewares=[self.middleware.handle],
            client_max_size=self.settings.max_body,
        )
        application._router = Router()  # noqa: SLF001 - the parameter is deprecated
        cors_origins, finish = self.settings.cors_origins, self.middleware.finish_unhandled
        origins.allow_origins(application, cors_origins, finish)
        application.on_response_prepare.append(protocol.adjust_headers)
        return application

    def _readiness(self) -> Readiness:
        return Readiness(
            self.catalog,
            self.pool,
            self.lifecycle,
            self.hosting.services,
            self.hosting.tasks,
            self.engines.waiting,
        )


def _catalog(settings: Settings, plugins: Plugins) -> Catalog:
    """Return the catalogue; register the defaults on a fresh data directory."""
    registry = Registry(settings.registry_path)
    catalog = Catalog(settings, registry, plugins)
    registry.entries()
    catalog.add_defaults()
    return catalog


def _allowed_pages(settings: Settings) -> AllowedPages | None:
    """Return the web pages allowed to use a server without keys; None for one with keys."""
    if settings.auth_mode != "none":
        return None
    known = not settings.trust_proxy or settings.allowed_hosts
    names = HostNames([settings.host, *settings.allowed_hosts]) if known else None
    return AllowedPages(names, frozenset(settings.cors_origins))


def _sessions(settings: Settings, metrics: Metrics, held: ResourceIds) -> SessionStore:
    return SessionStore(
        metrics,
        limit=settings.max_sessions,
        ttl=settings.session_ttl,
        share=settings.caller_share,
        held=held,
    )


def _pool(
    settings: Settings, memory: MemoryProbe, engines: EngineSet, metrics: Metrics
) -> ModelPool:
    policy = PoolPolicy(
        keep_alive=settings.keep_alive,
        min_residence=settings.min_residence,
        load_timeout=settings.load_timeout,
        queue_limit=settings.queue_limit,
        ram_fraction=settings.max_ram_fraction,
        vram_fraction=settings.max_vram_fraction,
        device=settings.device,
        engine=settings.engine,
        is_remote_engine=engines.is_remote,
    )
    return ModelPool(Loader(settings, memory, engines).load, memory, metrics, policy)


def _server_settings(settings: Settings) -> Server:
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
        max_inflight=inflight_limit(settings),
        max_connections=min(settings.max_connections or UNLIMITED, default_limit()),
        caller_share=settings.caller_share,
    )
