"""The lifetime of a composed server: background tasks and services."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING

from mataserver.app.deadline import finish_by
from mataserver.plugin_ends import ends_as_errors
from mataserver.tasks import Tasks

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from aiohttp import web

    from mataserver.app.server import ComposedServer
    from mataserver.contract.service import Service

SLOW_START_SECONDS = 5.0
"""Seconds after which a service that has not started is logged."""

log = logging.getLogger("mataserver.plugins")


async def lifetime(composed: ComposedServer, _application: web.Application) -> AsyncIterator[None]:
    """Run the background tasks, services and preloads of a server, and clean up."""
    own, maintenance = Tasks("server"), composed.maintenance
    composed.hosting.tasks.append(own)
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(_stop, composed)
        composed.engines.open()
        own.spawn(maintenance.reconcile, "follow the registry")
        own.spawn(maintenance.preload, "preload")
        own.spawn(composed.sessions.watch, "expire sessions")
        try:
            for name, service in composed.hosting.services:
                await _enter_service(name, service)
                stack.push_async_callback(_exit_service, composed, name, service)
                if on_result := getattr(service, "on_result", None):
                    composed.observers.add(name, on_result, own)
            tuple(composed.pages.found())  # logs those that nothing serves
            yield
        finally:
            deadline = composed.lifecycle.deadline
            for each in reversed(composed.hosting.tasks):
                await finish_by(deadline, f"tasks of {each.owner}", each.close())


async def _enter_service(name: str, service: Service) -> None:
    """Start a service; add its name to an exception.

    A slow start, for example of one that waits for a database, is logged while it lasts.
    """
    starting = service.__aenter__()
    timer = asyncio.get_running_loop().call_later(
        SLOW_START_SECONDS, _warn_slow_start, name, starting
    )
    try:
        with ends_as_errors():
            await starting
    except Exception as error:
        error.add_note(f"The server cannot start: the service of {name} failed to.")
        raise
    finally:
        timer.cancel()


def _warn_slow_start(name: str, starting: object) -> None:
    """Log where a service waits that has not started yet."""
    frame = getattr(starting, "cr_frame", None)
    place = "" if frame is None else f", at {frame.f_code.co_filename}, line {frame.f_lineno}"
    log.warning(
        "the server waits for the service of %s, which has not started after %g s%s",
        name,
        SLOW_START_SECONDS,
        place,
    )


async def _exit_service(composed: ComposedServer, name: str, service: Service) -> None:
    async def leave() -> None:
        with ends_as_errors():
            await service.__aexit__(None, None, None)

    await finish_by(composed.lifecycle.deadline, name, leave())


async def _stop(composed: ComposedServer) -> None:
    """Close every session, model and worker, also after a service failed to start."""
    deadline = composed.lifecycle.deadline
    for pull in composed.pulls:
        pull.cancel()
    pulls = asyncio.gather(*composed.pulls, return_exceptions=True)
    try:
        await finish_by(deadline, "a pull", pulls)
        await finish_by(deadline, "the sessions", composed.sessions.close())
        await finish_by(deadline, "the models", composed.pool.close())
        await finish_by(deadline, "the workers", composed.engines.close())
    finally:
        if composed.shutdown_task is not None:
            composed.shutdown_task.cancel()
