"""A composed server, and its lifetime: background tasks and services."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec

import mataserver
from mataserver.app.deadline import finish_by
from mataserver.http import openapi
from mataserver.tasks import Tasks

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from aiohttp import web

    from mataserver.app.hosting import ServiceHost
    from mataserver.app.maintenance import Maintenance
    from mataserver.config import Settings
    from mataserver.contract.service import Service
    from mataserver.http.auth import Authenticator
    from mataserver.http.budget import Budget
    from mataserver.http.head_cache import HeadCache
    from mataserver.http.in_process import InProcessConnector
    from mataserver.http.lifecycle import Lifecycle
    from mataserver.http.middleware import RequestMiddleware
    from mataserver.http.routing import RouteTable
    from mataserver.http.sockets import ServiceSockets
    from mataserver.library.catalog import Catalog
    from mataserver.plugins import Plugins
    from mataserver.serving.engine_set import EngineSet
    from mataserver.serving.feeds.registry import CameraRegistry
    from mataserver.serving.observers import Observers
    from mataserver.serving.pool import ModelPool
    from mataserver.serving.sessions import SessionStore


SLOW_START_SECONDS = 5.0
"""Seconds after which a service that has not started is logged."""

log = logging.getLogger("mataserver.plugins")


@dataclass(slots=True)
class ComposedServer:
    """A composed server, for the code that starts and stops it; handlers have no access."""

    settings: Settings
    application: web.Application
    lifecycle: Lifecycle
    plugins: Plugins
    catalog: Catalog
    pool: ModelPool
    engines: EngineSet
    sessions: SessionStore
    cameras: CameraRegistry
    gate: Authenticator
    budget: Budget
    sockets: ServiceSockets
    maintenance: Maintenance
    hosting: ServiceHost
    observers: Observers
    table: RouteTable
    in_process: InProcessConnector
    middleware: RequestMiddleware
    heads: HeadCache
    pulls: set[asyncio.Task[Any]] = field(default_factory=set)
    shutdown_task: asyncio.Task[None] | None = None
    document: bytes = b""
    described_tasks: dict[str, Any] = field(default_factory=dict)

    def openapi_document(self) -> bytes:
        """Return the OpenAPI document of every route, built at the first call.

        Lazily, as most servers are never asked for it. May be called from any thread.
        """
        task_outputs = self.plugins.own_result_types
        if not self.document or self.described_tasks != task_outputs:  # a plugin may come later
            version, self.described_tasks = mataserver.__version__, task_outputs
            found = openapi.document(self.table.routes, version, task_outputs)
            self.document = msgspec.json.encode(found)
        return self.document


def lifetime(composed: ComposedServer) -> Callable[[web.Application], AsyncIterator[None]]:
    """Return the context of the running server: background tasks, services, preloads, clean-up."""

    async def run(_application: web.Application) -> AsyncIterator[None]:
        own, maintenance = Tasks("server"), composed.maintenance
        composed.hosting.tasks.append(own)
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(_stop, composed)
            composed.engines.open()
            own.spawn(maintenance.reconcile(), "follow the registry")
            own.spawn(maintenance.preload(), "preload")
            try:
                for name, service in composed.hosting.services:
                    await _enter_service(name, service)
                    stack.push_async_callback(_exit_service, composed, name, service)
                    if hasattr(service, "on_result"):
                        composed.observers.add(name, service.on_result, own)
                yield
            finally:
                deadline = composed.lifecycle.deadline
                for each in reversed(composed.hosting.tasks):
                    await finish_by(deadline, f"tasks of {each.owner}", each.close())

    return run


async def _enter_service(name: str, service: Service) -> None:
    """Start a service; add its name to an exception.

    A slow start, for example of one that waits for a database, is logged while it lasts.
    """
    starting = service.__aenter__()
    timer = asyncio.get_running_loop().call_later(
        SLOW_START_SECONDS, _warn_slow_start, name, starting
    )
    try:
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
    cleanup = service.__aexit__(None, None, None)
    await finish_by(composed.lifecycle.deadline, name, cleanup)


async def _stop(composed: ComposedServer) -> None:
    """Close every session, model and worker, also after a service failed to start."""
    try:
        await _close_all(composed)
    finally:
        if composed.shutdown_task is not None:
            composed.shutdown_task.cancel()


async def _close_all(composed: ComposedServer) -> None:
    deadline = composed.lifecycle.deadline
    for pull in composed.pulls:
        pull.cancel()
    pulls = asyncio.gather(*composed.pulls, return_exceptions=True)
    await finish_by(deadline, "a pull", pulls)
    await finish_by(deadline, "the sessions", composed.sessions.close())
    await finish_by(deadline, "the models", composed.pool.close())
    await finish_by(deadline, "the workers", composed.engines.close())
