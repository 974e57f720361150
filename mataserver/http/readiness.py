"""Whether requests can be served now, and what is waited for if not."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mataserver.http.routing import State
    from mataserver.service import Service

log = logging.getLogger("mataserver.http")


def waiting(state: State) -> dict[str, str]:
    """Return what is not ready, each with the reason; nothing when the server is ready."""
    found = dict(state.not_ready)
    for name, task in _preloaded(state):
        status = state.pool.status(name, task)
        if status.state not in {"ready", "active", "idle"}:
            found.setdefault(name, status.error or status.state)
    for name, service in state.services:
        found |= _asked(name, service)
    if state.draining:
        found["server"] = "draining"
    return found


def added(state: State) -> dict[str, Any]:
    """Return what services add to the answer that the server is ready, and which tasks failed."""
    found: dict[str, Any] = {}
    for name, service in state.services:
        ready = getattr(service, "ready", None)
        if ready is not None:
            try:
                found.update(ready())
            except Exception:
                log.exception("ready() of the plugin %s failed", name)
    failed = {
        f"{tasks.owner}: {name}": why for tasks in state.tasks for name, why in tasks.failed.items()
    }
    return {**found, **({"failed_tasks": failed} if failed else {})}


def _asked(name: str, service: Service) -> dict[str, str]:
    """Return what a service is waiting for."""
    waits = getattr(service, "waiting", None)
    if waits is None:
        return {}
    try:
        return dict(waits())
    except Exception:
        log.exception("waiting() of the plugin %s failed", name)
        return {name: "it cannot tell whether it is ready"}


def sentence(found: dict[str, str]) -> str:
    """Return the same in words."""
    return "Not ready: " + "; ".join(f"{name}: {why}" for name, why in found.items())


def _preloaded(state: State) -> list[tuple[str, str]]:
    wanted = [setting.model for setting in state.settings.models if setting.preload]
    entries = state.catalog.entries()
    return [(name, entries[name].task) for name in wanted if name in entries]
