"""Whether requests can be served now, and what is waited for if not."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mataserver.http.routing import State


def waiting(state: State) -> dict[str, str]:
    """Return what is not ready, each with the reason; nothing when the server is ready."""
    found = dict(state.not_ready)
    for name, task in _preloaded(state):
        status = state.pool.status(name, task)
        if status.state not in {"ready", "active", "idle"}:
            found.setdefault(name, status.error or status.state)
    if state.draining:
        found["server"] = "draining"
    return found


def sentence(found: dict[str, str]) -> str:
    """Return the same in words."""
    return "Not ready: " + "; ".join(f"{name}: {why}" for name, why in found.items())


def _preloaded(state: State) -> list[tuple[str, str]]:
    wanted = [setting.model for setting in state.settings.models if setting.preload]
    entries = state.catalog.entries()
    return [(name, entries[name].task) for name in wanted if name in entries]
