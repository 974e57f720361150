"""Composition: settings and plugins to an application, and the server around it."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import signal
from typing import TYPE_CHECKING, Any

import msgspec
from aiohttp import web

import mataserver
from mataserver import hosting, kernel, openapi
from mataserver import plugins as plugin_host
from mataserver.cameras.roster import Roster
from mataserver.catalog import Catalog
from mataserver.config import ConfigError
from mataserver.credentials import KeyRing, server_keys
from mataserver.deadline import end_after, in_time
from mataserver.engines.memory import MemoryProbe, keep_freed_memory
from mataserver.errors import MataError
from mataserver.http import (
    chat,
    dialects,
    docs,
    health,
    infer,
    login,
    middleware,
    models,
    oip,
    origins,
    pages,
    sessions,
    stream,
)
from mataserver.http import settings as settings_page
from mataserver.http.auth import Gate, Pages
from mataserver.http.browsers import Browsers, Names
from mataserver.http.channel import GOING_AWAY
from mataserver.http.codec import Share
from mataserver.http.entrance import Site
from mataserver.http.routing import ALTERNATIVES, TABLE, State
from mataserver.http.sockets import Sockets
from mataserver.loader import Loader
from mataserver.metrics import Metrics
from mataserver.outbound import Hosts, Outbound
from mataserver.pool import ModelPool
from mataserver.registry import Registry
from mataserver.reload import Reload
from mataserver.services import ServedModels
from mataserver.sessions import SessionStore
from mataserver.slots import Policy
from mataserver.upkeep import Pace, Upkeep

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping

    from mataserver.config import SetBy, Settings
    from mataserver.http.routing import Route
    from mataserver.plugins import Plugins
    from mataserver.service import Service

CONNECTIONS: dict[str, Any] = {
    "access_log": None,
    "auto_decompress": False,
    "keepalive_timeout": 75.0,
}
"""aiohttp's options of every connection."""
LAST_SECONDS = 1.0
"""How much longer than ``drain_timeout`` the end of the server may take."""
STATE = web.AppKey("state", State)
UPKEEP = web.AppKey("upkeep", Upkeep)

log = logging.getLogger("mataserver")


def build(
    settings: Settings,
    plugins: Plugins | None = None,
    probe: MemoryProbe | None = None,
    pace: Pace | None = None,
    set_by: Mapping[str, SetBy] | None = None,
) -> web.Application:
    """Compose the application; ``set_by`` tells where the settings came from.

    Registers the defaults on a fresh data directory. Raises a ``MataError`` for settings, a
    registry or a plugin (``plugins.strict``) that cannot be used.
    """
    found = plugin_host.discover(settings) if plugins is None else plugins
    registry = Registry(settings.data_path / "model_registry.json")
    catalog = Catalog(settings, registry, found)
    registry.entries()
    catalog.add_defaults()
    metrics, memory = Metrics(), probe or MemoryProbe()
    loader = Loader(settings, memory)
    pool = ModelPool(loader.load, memory, metrics, _policy(settings))
    served = ServedModels(catalog, pool, metrics, settings.max_tokens)
    store = SessionStore(metrics, limit=settings.max_sessions, ttl=settings.session_ttl)
    cameras = Roster(settings, served, store, metrics)
    keys, _ = server_keys(settings)
    browsers = Browsers()
    state = State(
        settings,
        mataserver.__version__,
        catalog,
        pool,
        served,
        store,
        metrics,
        found,
        memory,
        Gate(
            KeyRing(keys),
            browsers,
            open_to=_open_to(settings),
            trust_proxy=settings.trust_proxy,
        ),
        browsers,
        cameras,
        Outbound(_hosts(settings)),
        Sockets(settings.max_body, settings.ping_interval, settings.unread_timeout),
    )
    state.set_by = set_by or {}
    state.forms.update(dialects.FORMS)
    metrics.before_render(cameras.count)
    metrics.before_render(lambda: metrics.inflight.set(state.body_bytes))
    metrics.before_render(pool.tell_queues)
    upkeep = Upkeep(state, pace or Pace())
    upkeep.add_configured()
    cameras.check(state.not_ready)
    application = web.Application(
        middlewares=[middleware.make(state)],
        client_max_size=settings.max_body,
    )
    origins.allow(application, settings.cors_origins)
    application[STATE] = state
    application[UPKEEP] = upkeep
    _add_routes(application, state)
    application.cleanup_ctx.append(_lifetime(state, upkeep, loader))
    if settings.grpc_port is not None:
        _add_grpc(state)
    return application


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


def _policy(settings: Settings) -> Policy:
    return Policy(
        keep_alive=settings.keep_alive,
        min_residence=settings.min_residence,
        load_timeout=settings.load_timeout,
        queue_limit=settings.queue_limit,
        ram_fraction=settings.max_ram_fraction,
        vram_fraction=settings.max_vram_fraction,
        device=settings.device,
    )


def _add_routes(application: web.Application, state: State) -> None:
    """Add the server's own routes, then those of the plugins, which see what exists already."""
    expect = dialects.expecting(middleware.expectations(state), state.forms)
    application[TABLE], application[ALTERNATIVES] = {}, {}
    routes: list[Route] = []
    for module in (
        health,
        models,
        infer,
        chat,
        oip,
        sessions,
        stream,
        login,
        pages,
        settings_page,
        docs,
    ):
        routes += module.routes(state)
    hosting.add(application, routes, expect)
    for plugin, service in hosting.Hosting(state).services(routes):
        hosting.add(application, plugin.routes, expect)
        routes += plugin.routes
        _take_in(state, plugin.name, service)
    state.document = msgspec.json.encode(openapi.document(routes, state.version))


def _take_in(state: State, name: str, service: Service) -> None:
    """Note what a service offers beside its routes."""
    state.services.append((name, service))
    if hasattr(service, "authenticate"):
        state.gate.services.append(service.authenticate)
    if hasattr(service, "claims"):
        state.claims.append(service.claims)
    if hasattr(service, "error_forms"):
        state.forms.update(service.error_forms())


def _add_grpc(state: State) -> None:
    """Serve gRPC too, entered after the services. Raises ``MataError`` without the extra."""
    try:
        from mataserver.rpc.server import RpcServer
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] not in {"grpc", "google"}:
            raise
        raise MataError("grpc_port needs a package: pip install 'mataserver[grpc]'") from None
    server = RpcServer(state)
    state.services.append(("grpc", server))
    state.drains.append(server.drain)


def _lifetime(
    state: State, upkeep: Upkeep, loader: Loader
) -> Callable[[web.Application], AsyncIterator[None]]:
    """Return what runs while the server does: background tasks, services, preloads, clean-up."""

    async def lifetime(_application: web.Application) -> AsyncIterator[None]:
        loops = (
            state.sessions.watch(),
            upkeep.reconcile(),
            upkeep.preload(),
            upkeep.keep_cameras(),
        )
        tasks = [asyncio.create_task(each) for each in loops]
        for task in tasks:
            task.add_done_callback(_tell_failure)
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(_stop, state, loader)
            try:
                for name, service in state.services:
                    await service.__aenter__()
                    stack.push_async_callback(_leave, state, name, service)
                yield
            finally:
                for task in tasks:
                    task.cancel()
                waiting = asyncio.gather(*tasks, return_exceptions=True)
                await in_time(state.deadline, "background work", waiting)
                for each in state.tasks:
                    await in_time(state.deadline, f"tasks of {each.owner}", each.close())

    return lifetime


async def _leave(state: State, name: str, service: Service) -> None:
    await in_time(state.deadline, name, service.__aexit__(None, None, None))


def _tell_failure(task: asyncio.Task[None]) -> None:
    """Log what ended a background task before its time."""
    if not task.cancelled() and task.exception() is not None:
        log.error("a background task failed", exc_info=task.exception())


async def _stop(state: State, loader: Loader) -> None:
    """Give up every session, model and worker, also when a service failed to start."""
    for pull in state.pulls:
        pull.cancel()
    pulls = asyncio.gather(*state.pulls, return_exceptions=True)
    await in_time(state.deadline, "a pull", pulls)
    await in_time(state.deadline, "the sessions", state.sessions.close())
    await in_time(state.deadline, "the models", state.pool.close())
    await in_time(state.deadline, "the workers", loader.close())


async def stop(runner: web.AppRunner, application: web.Application) -> None:
    """Take no more connections, answer what has begun, close every stream with 1001, then end.

    Every wait of it ends ``drain_timeout`` seconds from now, or a moment later. After half of them
    loads and pulls are given up, at their end whoever still waits for a model is told so.
    """
    state = application[STATE]
    seconds = state.settings.drain_timeout
    state.deadline = asyncio.get_running_loop().time() + seconds + LAST_SECONDS
    state.stopping.set()
    giving_up = asyncio.create_task(_give_up(state, seconds / 2))
    for drain in state.drains:
        drain()
    for site in list(runner.sites):
        await site.stop()
    for session in state.sessions.all():
        for connection in session.connections:
            connection.leave(GOING_AWAY, "the server is shutting down")
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds / 2):
            await state.sockets.close_all()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout_at(state.deadline - LAST_SECONDS / 2):
            while state.active:  # noqa: ASYNC110 - for this alone no request is to set an event
                await asyncio.sleep(0.01)
            # What was answered may still be on its way: aiohttp waits for that twice as long.
            left = state.deadline - LAST_SECONDS / 2 - asyncio.get_running_loop().time()
            if runner.server is not None:
                runner.server.pre_shutdown()
                await runner.server.shutdown(left / 2)
    try:
        await runner.cleanup()
    finally:
        giving_up.cancel()


async def _give_up(state: State, half: float) -> None:
    """Give up what would hold up the end of the server: first what may take longest."""
    await asyncio.sleep(half)
    state.pool.stop_loading()
    for pull in state.pulls:
        pull.cancel()
    await asyncio.sleep(half)
    state.pool.dismiss()
    for pull in state.pulls:  # pip had its time to undo what it had begun
        pull.cancel()


def runner_of(application: web.Application) -> web.AppRunner:
    """Return what serves an application: as the command and the tests do."""
    return web.AppRunner(
        application,
        handler_cancellation=True,
        shutdown_timeout=LAST_SECONDS / 8,  # what is left when ``stop`` has waited
        **CONNECTIONS,
    )


def _why_deaf(settings: Settings, error: OSError) -> str:
    """Say why the server cannot listen, and what to do about it."""
    where = f"{settings.host}:{settings.port}"
    if error.errno == errno.EADDRINUSE:
        return f"cannot listen on {where}: the port is in use; choose another with --port"
    return f"cannot listen on {where}: {error.strerror}"


async def listen(runner: web.AppRunner, application: web.Application, host: str, port: int) -> int:
    """Take connections; return the port. Raises ``OSError``.

    What the machine itself reaches the server by is told to the services: the loopback where it
    listens on every address.
    """
    state = application[STATE]
    limit = state.settings.max_connections
    await Site(runner, host, port, limit, lambda: Share(state), CONNECTIONS).start()
    chosen: int = runner.addresses[0][1]
    here = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104
    state.url = url_of(here, chosen)
    state.listening.set()
    return chosen


def url_of(host: str, port: int) -> str:
    """Return a base URL; an IPv6 address stands in brackets."""
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


async def run(
    settings: Settings,
    announce: Callable[[str, State], None],
    plugins: Plugins | None = None,
    reread: Callable[[], Settings] | None = None,
    set_by: Mapping[str, SetBy] | None = None,
) -> None:
    """Serve until SIGINT or SIGTERM, then drain.

    In-flight requests are answered, sockets closed, models unloaded. On SIGHUP the models and
    cameras of ``reread()``, by default of the settings as they are, are followed.

    ``announce(url, state)`` is called once the server listens. Raises ``MataError`` when it cannot.
    """
    kernel.hide_memory()
    keep_freed_memory(block_mb=8, total_mb=16)  # bodies and answers; an idle server stays small
    asked = asyncio.Event()
    loop = asyncio.get_running_loop()

    def interrupted(number: int) -> None:
        if asked.is_set():
            os._exit(128 + number)  # the second time nobody wants to wait; the workers die with us
        asked.set()
        end_after(settings.drain_timeout + 1.5 * LAST_SECONDS)

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, interrupted, number)
    application = build(settings, plugins, set_by=set_by)
    again = Reload(application[STATE], application[UPKEEP], reread or (lambda: settings))
    reloads: set[asyncio.Task[None]] = set()

    def reload() -> None:
        task = loop.create_task(again.run())
        reloads.add(task)
        task.add_done_callback(reloads.discard)
        task.add_done_callback(_tell_failure)

    loop.add_signal_handler(signal.SIGHUP, reload)
    runner = runner_of(application)
    await runner.setup()
    try:
        try:
            port = await listen(runner, application, settings.host, settings.port)
        except OSError as error:
            raise MataError(_why_deaf(settings, error)) from None
        announce(url_of(settings.host, port), application[STATE])
        await asked.wait()
    finally:
        for task in reloads:
            task.cancel()
        await stop(runner, application)
