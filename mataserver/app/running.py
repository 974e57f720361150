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

from mataserver.app import stalls, thrift
from mataserver.app.composition import build
from mataserver.app.deadline import end_after
from mataserver.app.reload import Reload
from mataserver.errors import MataError
from mataserver.http import fast_routing, head_connection
from mataserver.http.budget import BudgetShare
from mataserver.http.connection_limit import Site
from mataserver.http.protocol import Conversation
from mataserver.http.stream_channel import GOING_AWAY
from mataserver.http.unread_output import Strangers
from mataserver.processes import kernel
from mataserver.tasks import Tasks

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from mataserver.app.lifetime import Composed
    from mataserver.config import SetBy, Settings
    from mataserver.plugins import Plugins


log = logging.getLogger("mataserver")

LAST_SECONDS = 1.0
"""Seconds that a shutdown may take beyond ``drain_timeout``."""


CONNECTIONS: dict[str, Any] = {
    "access_log": None,
    "auto_decompress": False,
    "keepalive_timeout": 75.0,
}
"""aiohttp's options for every connection."""


def runner_of(composed: Composed) -> web.AppRunner:
    """Return the runner of the application."""
    return web.AppRunner(
        composed.application,
        handler_cancellation=True,
        shutdown_timeout=LAST_SECONDS / 8,  # the remainder after ``drain``
        **CONNECTIONS,
    )


async def set_up(runner: web.AppRunner, composed: Composed, stopping: asyncio.Event) -> bool:
    """Start the services; return False if ``stopping`` was set before they had started.

    Nobody has been served yet, so a service that does not come to start is given up at once. Raises
    what a service raises.
    """
    loop = asyncio.get_running_loop()
    starting, stopped = loop.create_task(runner.setup()), loop.create_task(stopping.wait())
    try:
        await asyncio.wait([starting, stopped], return_when=asyncio.FIRST_COMPLETED)
        if starting.done():
            starting.result()
            return True
        composed.lifecycle.deadline = loop.time() + LAST_SECONDS
        composed.lifecycle.stopping.set()
        end_after(2 * LAST_SECONDS)
        starting.cancel()
        await asyncio.wait([starting])
        if not starting.cancelled() and starting.exception() is not None:
            log.error("a service failed while it was given up", exc_info=starting.exception())
        return False
    finally:
        starting.cancel()
        stopped.cancel()


async def listen(runner: web.AppRunner, composed: Composed, host: str, port: int) -> int:
    """Accept connections; return the port. Raises ``OSError``."""
    limit = composed.settings.max_connections
    if composed.settings.short_way and fast_routing.known() and runner.server is not None:
        fast_routing.shorten(runner.server, composed.application, composed.table)
    site = Site(runner, host, port, limit, _conversations(composed))
    await site.start()
    composed.doorway.accept = site.entrance.within
    chosen: int = runner.addresses[0][1]
    tell_address(composed, host, chosen)
    return chosen


def _conversations(composed: Composed) -> Callable[[web.Server], Conversation]:
    """Return the factory of connection protocols."""
    options = {
        "budget": partial(BudgetShare, composed.budget),
        "loop": asyncio.get_running_loop(),
        "patience": composed.settings.unread_timeout,
        "strangers": Strangers(composed.budget.limit / 8),
        **CONNECTIONS,
    }
    alone = head_connection.is_alone(composed.edge, composed.application)
    if composed.settings.short_way and head_connection.known() and alone:
        return partial(head_connection.CachingConversation, cache=composed.heads, **options)
    return partial(Conversation, **options)


def tell_address(composed: Composed, host: str, port: int) -> None:
    """Set the address by which services on this machine reach the server.

    If it listens on every address, this is the loopback.
    """
    here = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104
    composed.lifecycle.listens(url_of(here, port))


def url_of(host: str, port: int) -> str:
    """Return a base URL, with brackets around an IPv6 address."""
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


async def drain(runner: web.BaseRunner, composed: Composed) -> None:
    """Stop accepting connections, complete pending requests, close every stream with 1001.

    All waits, including the subsequent clean-up, end within ``drain_timeout`` seconds plus a
    moment. After half of that time loads and pulls are cancelled; at its end pending requests to
    models fail.
    """
    lifecycle, seconds = composed.lifecycle, composed.settings.drain_timeout
    lifecycle.deadline = asyncio.get_running_loop().time() + seconds + LAST_SECONDS
    lifecycle.stopping.set()
    composed.giving_up = asyncio.create_task(_give_up(composed, seconds / 2))
    for site in list(runner.sites):
        await site.stop()
    for session in composed.sessions.all():
        for connection in session.connections:
            connection.request_close(GOING_AWAY, "the server is shutting down")
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds / 2):
            await composed.sockets.close_all()
    await _answered(runner, composed, lifecycle.deadline - LAST_SECONDS / 2)


async def _answered(runner: web.BaseRunner, composed: Composed, until: float) -> None:
    """Wait until pending requests are answered, and the answers sent."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout_at(until):
            while composed.lifecycle.active:  # noqa: ASYNC110 - an event would cost every request
                await asyncio.sleep(0.01)
            while _unsent(runner):  # noqa: ASYNC110 - transports have no event
                await asyncio.sleep(0.01)
            # Answers may still be in flight: aiohttp waits twice, each time for as long as given.
            left = until - asyncio.get_running_loop().time()
            if runner.server is not None:
                runner.server.pre_shutdown()
                await runner.server.shutdown(left / 2)


def _unsent(runner: web.BaseRunner) -> bool:
    """Whether any connection has unsent output."""
    open_ones = () if runner.server is None else runner.server.connections
    transports = [each.transport for each in open_ones]
    return any(each is not None and each.get_write_buffer_size() > 0 for each in transports)


async def stop(runner: web.BaseRunner, composed: Composed) -> None:
    """Drain, then clean up."""
    await drain(runner, composed)
    await runner.cleanup()


async def _give_up(composed: Composed, half: float) -> None:
    """Cancel what would delay the shutdown, longest tasks first."""
    await asyncio.sleep(half)
    composed.pool.cancel_loads()
    for pull in composed.pulls:
        pull.cancel()
    await asyncio.sleep(half)
    composed.pool.dismiss()
    for pull in composed.pulls:  # pip has had time to roll back
        pull.cancel()


def _bind_error(settings: Settings, error: OSError) -> str:
    """Explain why the server cannot listen, with a remedy."""
    where = f"{settings.host}:{settings.port}"
    if error.errno == errno.EADDRINUSE:
        return f"cannot listen on {where}: the port is in use; choose another with --port"
    return f"cannot listen on {where}: {error.strerror}"


async def run(
    settings: Settings,
    announce: Callable[[str, Composed], None],
    plugins: Plugins | None = None,
    reread: Callable[[], Settings] | None = None,
    set_by: Mapping[str, SetBy] | None = None,
) -> None:
    """Serve until SIGINT or SIGTERM, then drain.

    Draining answers pending requests, closes sockets and unloads models. SIGHUP applies the models
    of ``reread()``, by default of the unchanged settings, and plugins' own settings.

    ``announce(url, composed)`` is called once the server listens. Raises ``MataError`` if it
    cannot.
    """
    kernel.hide_memory()
    thrift.keep()
    asked = asyncio.Event()
    loop = asyncio.get_running_loop()

    def interrupted(number: int) -> None:
        if asked.is_set():
            os._exit(128 + number)  # a second signal exits at once; the workers die with the server
        asked.set()
        end_after(settings.drain_timeout + 1.5 * LAST_SECONDS)

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, interrupted, number)
    composed = build(settings, plugins, set_by=set_by)
    reload = Reload(
        composed.catalog,
        composed.pool,
        composed.hosting,
        composed.upkeep,
        reread or (lambda: settings),
    )
    tasks = Tasks("server")
    loop.add_signal_handler(
        signal.SIGHUP, lambda: tasks.spawn(reload.run(), "read the configuration again")
    )
    runner = runner_of(composed)
    if not await set_up(runner, composed, asked):
        await tasks.close()
        return
    try:
        try:
            port = await listen(runner, composed, settings.host, settings.port)
        except OSError as error:
            raise MataError(_bind_error(settings, error)) from None
        tasks.spawn(thrift.give_back(), "give freed memory back")
        tasks.spawn(stalls.watch(), "watch the event loop")
        announce(url_of(settings.host, port), composed)
        await asked.wait()
    finally:
        await tasks.close()
        await stop(runner, composed)
