"""A server that was composed, and what runs while it does: background tasks and services."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec

import mataserver
from mataserver.app.deadline import in_time
from mataserver.http import openapi
from mataserver.tasks import Tasks

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from aiohttp import web

    from mataserver.app.hosting import Hosting
    from mataserver.app.upkeep import Upkeep
    from mataserver.config import Settings
    from mataserver.contract.service import Service
    from mataserver.http.auth import Gate
    from mataserver.http.budget import Budget
    from mataserver.http.head_cache import HeadCache
    from mataserver.http.in_process import Doorway
    from mataserver.http.lifecycle import Lifecycle
    from mataserver.http.middleware import Edge
    from mataserver.http.routing import Table
    from mataserver.http.sockets import Sockets
    from mataserver.library.catalog import Catalog
    from mataserver.plugins import Plugins
    from mataserver.serving.feeds.registry import CameraRegistry
    from mataserver.serving.loader import Loader
    from mataserver.serving.observers import Observers
    from mataserver.serving.pool import ModelPool
    from mataserver.serving.sessions import SessionStore


PATIENCE = 5.0
"""Seconds after which a service that has not started is named."""

log = logging.getLogger("mataserver.plugins")


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
    described_tasks: dict[str, Any] = field(default_factory=dict)

    def described(self) -> bytes:
        """Return the OpenAPI document of every route, made when it is first asked for.

        Few starts are followed by somebody who reads it. Any thread may call it.
        """
        brought = self.plugins.brought
        if not self.document or self.described_tasks != brought:  # a plugin may come later
            version, self.described_tasks = mataserver.__version__, brought
            found = openapi.document(self.table.routes, version, brought)
            self.document = msgspec.json.encode(found)
        return self.document


def lifetime(composed: Composed) -> Callable[[web.Application], AsyncIterator[None]]:
    """Return what runs while the server does: background tasks, services, preloads, clean-up."""

    async def living(_application: web.Application) -> AsyncIterator[None]:
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

    return living


async def _enter(name: str, service: Service) -> None:
    """Start a service. What it raises, told by a traceback, gets a line that names it.

    One that waits for long, for a database or another server, is named while the server does.
    """
    starting = service.__aenter__()
    late = asyncio.get_running_loop().call_later(PATIENCE, _tell_late, name, starting)
    try:
        await starting
    except Exception as error:
        error.add_note(f"The server cannot start: the service of {name} failed to.")
        raise
    finally:
        late.cancel()


def _tell_late(name: str, starting: object) -> None:
    """Tell where a service is that has not started yet."""
    frame = getattr(starting, "cr_frame", None)
    place = "" if frame is None else f", at {frame.f_code.co_filename}, line {frame.f_lineno}"
    log.warning(
        "the server waits for the service of %s, which has not started after %g s%s",
        name,
        PATIENCE,
        place,
    )


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
