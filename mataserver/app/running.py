"""The run of a server: listen, serve, drain."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import signal
from functools import partial
from typing import TYPE_CHECKING, Any

from aiohttp import web

from mataserver.app import loop_watchdog, memory_release
from mataserver.app.composition import build
from mataserver.app.deadline import exit_after
from mataserver.app.reload import Reload
from mataserver.config.addresses import base_url
from mataserver.errors import MataError
from mataserver.http import admission, fast_routing, head_connection
from mataserver.http.budget import BudgetShare
from mataserver.http.connection_limit import ListeningSite
from mataserver.http.protocol import HttpConnection
from mataserver.http.stream_channel import GOING_AWAY
from mataserver.http.unread_output import AnonymousOutput
from mataserver.processes import kernel
from mataserver.tasks import Tasks

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from mataserver.app.server import ComposedServer
    from mataserver.config import SetBy, Settings
    from mataserver.plugins import Plugins


log = logging.getLogger("mataserver")

EXIT_GRACE_SECONDS = 1.0
"""Seconds that a shutdown may take beyond ``drain_timeout``."""


CONNECTION_OPTIONS: dict[str, Any] = {
    "access_log": None,
    "auto_decompress": False,
    "keepalive_timeout": 75.0,
}
"""aiohttp's options for every connection."""


def make_runner(composed: ComposedServer) -> web.AppRunner:
    """Return the runner of the application."""
    return web.AppRunner(
        composed.application,
        handler_cancellation=True,
        shutdown_timeout=EXIT_GRACE_SECONDS / 8,  # the remainder after ``drain``
        **CONNECTION_OPTIONS,
    )


async def set_up(runner: web.AppRunner, composed: ComposedServer, stopping: asyncio.Event) -> bool:
    """Start the services; return False if ``stopping`` was set before they had started.

    No client has been served yet, so a pending start is cancelled immediately. Raises what a
    service raises.
    """
    loop = asyncio.get_running_loop()
    starting, stopped = loop.create_task(runner.setup()), loop.create_task(stopping.wait())
    try:
        await asyncio.wait([starting, stopped], return_when=asyncio.FIRST_COMPLETED)
        if starting.done():
            starting.result()
            return True
        composed.lifecycle.deadline = loop.time() + EXIT_GRACE_SECONDS
        composed.lifecycle.stopping.set()
        exit_after(2 * EXIT_GRACE_SECONDS)
        starting.cancel()
        await asyncio.wait([starting])
        if not starting.cancelled() and starting.exception() is not None:
            log.error("a service failed while it was given up", exc_info=starting.exception())
        return False
    finally:
        starting.cancel()
        stopped.cancel()


async def listen(runner: web.AppRunner, composed: ComposedServer, host: str, port: int) -> int:
    """Accept connections; return the port. Raises ``OSError``."""
    limit = composed.settings.max_connections
    if runner.server is not None:
        if composed.settings.short_way and fast_routing.is_supported():
            fast_routing.install(runner.server, composed.application, composed.table)
        expect = admission.expect_handler(composed.table, composed.gate, composed.relay)
        admission.handle_expectations(runner.server, composed.application, expect)
    others = sum(composed.server_settings.rpc_connections)
    site = ListeningSite(runner, host, port, limit, _connection_factory(composed), others)
    await site.start()
    composed.in_process.accept = site.factory.make_connection
    chosen: int = runner.addresses[0][1]
    set_address(composed, host, chosen)
    return chosen


def _connection_factory(composed: ComposedServer) -> Callable[[web.Server], HttpConnection]:
    options = {
        "budget": partial(BudgetShare, composed.budget),
        "loop": asyncio.get_running_loop(),
        "patience": composed.settings.unread_timeout,
        "anonymous": AnonymousOutput(composed.budget.limit / 8),
        **CONNECTION_OPTIONS,
    }
    alone = head_connection.is_sole_middleware(composed.middleware, composed.application)
    if composed.settings.short_way and head_connection.is_supported() and alone:
        return partial(head_connection.CachingConnection, cache=composed.heads, **options)
    return partial(HttpConnection, **options)


def set_address(composed: ComposedServer, host: str, port: int) -> None:
    """Set the address by which services on this machine reach the server.

    If it listens on every address, this is the loopback.
    """
    here = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104
    composed.lifecycle.set_listening(base_url(here, port))


async def drain(runner: web.BaseRunner, composed: ComposedServer) -> None:
    """Stop accepting connections, complete pending requests, close every stream with 1001.

    All waits, including the subsequent clean-up, end within ``drain_timeout`` seconds plus a
    moment. After half of that time loads and pulls are cancelled; at its end pending requests to
    models fail.
    """
    lifecycle, seconds = composed.lifecycle, composed.settings.drain_timeout
    lifecycle.deadline = asyncio.get_running_loop().time() + seconds + EXIT_GRACE_SECONDS
    lifecycle.stopping.set()
    composed.shutdown_task = asyncio.create_task(_cancel_slow_work(composed, seconds / 2))
    for site in list(runner.sites):
        await site.stop()
    for session in composed.sessions.all():
        for request_close in tuple(session.connections):
            request_close(GOING_AWAY, "the server is shutting down")
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds / 2):
            await composed.sockets.close_all()
    await _wait_for_answers(runner, composed, lifecycle.deadline - EXIT_GRACE_SECONDS / 2)


async def _wait_for_answers(runner: web.BaseRunner, composed: ComposedServer, until: float) -> None:
    """Wait until pending requests are answered, and the answers sent."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout_at(until):
            while composed.lifecycle.active:  # noqa: ASYNC110 - an event would cost every request
                await asyncio.sleep(0.01)
            while _has_unsent_output(runner):  # noqa: ASYNC110 - transports have no event
                await asyncio.sleep(0.01)
            # Answers may still be in flight: aiohttp waits twice, each time for as long as given.
            left = until - asyncio.get_running_loop().time()
            if runner.server is not None:
                runner.server.pre_shutdown()
                await runner.server.shutdown(left / 2)


def _has_unsent_output(runner: web.BaseRunner) -> bool:
    connections = () if runner.server is None else runner.server.connections
    transports = [each.transport for each in connections]
    return any(each is not None and each.get_write_buffer_size() > 0 for each in transports)


async def stop(runner: web.BaseRunner, composed: ComposedServer) -> None:
    """Drain, then clean up."""
    await drain(runner, composed)
    await runner.cleanup()


async def _cancel_slow_work(composed: ComposedServer, half_time: float) -> None:
    """Cancel what would delay the shutdown, longest tasks first."""
    await asyncio.sleep(half_time)
    composed.pool.cancel_loads()
    for pull in composed.pulls:
        pull.cancel()
    await asyncio.sleep(half_time)
    composed.pool.dismiss()
    for pull in composed.pulls:  # pip has had time to roll back
        pull.cancel()


def _set_handlers(handlers: Mapping[signal.Signals, Callable[[], object]]) -> None:
    """Handle the signals on the running loop, whoever handled or ignored them before."""
    loop = asyncio.get_running_loop()
    for number, handler in handlers.items():
        loop.add_signal_handler(number, handler)


def _bind_error(settings: Settings, error: OSError) -> str:
    """Explain why the server cannot listen, with a remedy."""
    where = f"{settings.host}:{settings.port}"
    if error.errno == errno.EADDRINUSE:
        return f"cannot listen on {where}: the port is in use; choose another with --port"
    return f"cannot listen on {where}: {error.strerror}"


async def run(
    settings: Settings,
    announce: Callable[[str, ComposedServer], None],
    plugins: Plugins | None = None,
    reread: Callable[[], tuple[Settings, Mapping[str, SetBy] | None]] | None = None,
    set_by: Mapping[str, SetBy] | None = None,
) -> None:
    """Serve until SIGINT or SIGTERM, then drain.

    Draining answers pending requests, closes sockets and unloads models. SIGHUP applies the models
    of ``reread()``, which returns what ``config.read`` does, and plugins' own settings; by default
    nothing has changed.

    ``announce(url, composed)`` is called once the server listens. Raises ``MataError`` if it
    cannot.
    """
    kernel.hide_memory()
    memory_release.retain_freed_memory()
    stop_requested = asyncio.Event()

    def on_signal(number: signal.Signals) -> None:
        if stop_requested.is_set():
            os._exit(128 + number)  # a second signal exits at once; the workers die with the server
        stop_requested.set()
        exit_after(settings.drain_timeout + 1.5 * EXIT_GRACE_SECONDS)

    handlers: dict[signal.Signals, Callable[[], object]] = {
        each: partial(on_signal, each) for each in (signal.SIGINT, signal.SIGTERM)
    }
    _set_handlers(handlers)
    composed = build(settings, plugins, set_by=set_by)
    reload = Reload(composed, reread or (lambda: (settings, set_by)))
    tasks = Tasks("server")
    handlers[signal.SIGHUP] = lambda: tasks.spawn(reload.run(), "read the configuration again")
    _set_handlers(handlers)  # again: a plugin's import may have taken them, and so may a service
    runner = make_runner(composed)
    if not await set_up(runner, composed, stop_requested):
        await tasks.close()
        return
    _set_handlers(handlers)
    try:
        try:
            port = await listen(runner, composed, settings.host, settings.port)
        except OSError as error:
            raise MataError(_bind_error(settings, error)) from None
        tasks.spawn(memory_release.release_periodically, "give freed memory back")
        tasks.spawn(loop_watchdog.watch, "watch the event loop")
        announce(base_url(settings.host, port), composed)
        await stop_requested.wait()
    finally:
        await tasks.close()
        await stop(runner, composed)
