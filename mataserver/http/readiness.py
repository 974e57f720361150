"""Whether the server is ready to serve requests, and if not, why."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from mataserver.errors import MataError
from mataserver.plugin_ends import ends_logged

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from mataserver.contract.service import Service
    from mataserver.http.lifecycle import Lifecycle
    from mataserver.library.catalog import Catalog
    from mataserver.serving.pool import ModelPool
    from mataserver.tasks import Tasks

T = TypeVar("T")
log = logging.getLogger("mataserver.http")


class Readiness:
    """The data of ``GET /ready``; ``not_ready`` gives further reasons."""

    def __init__(
        self,
        catalog: Catalog,
        pool: ModelPool,
        lifecycle: Lifecycle,
        services: Sequence[tuple[str, Service]],
        tasks: Sequence[Tasks],
        engines: Callable[[], dict[str, str]],
    ) -> None:
        self.not_ready: dict[str, str] = {}
        self._catalog = catalog
        self._pool = pool
        self._lifecycle = lifecycle
        self._services = services
        self._tasks = tasks
        self._engines = engines

    def waiting(self) -> dict[str, str]:
        """Return what is not ready, each with the reason; empty if the server is ready."""
        found = self.not_ready | self._engines()
        for name, task in self._preloaded_models():
            status = self._pool.status(name, task)
            if status.state not in {"ready", "active", "idle"}:
                found.setdefault(name, status.error or self._plan_error(name) or status.state)
        for name, waits in call_services(self._services, "waiting", _reasons):
            found |= {name: "it cannot tell whether it is ready"} if waits is None else waits
        if self._lifecycle.is_draining:
            found["server"] = "draining"
        return found

    def details(self) -> dict[str, Any]:
        """Return what services add to a ready server's answer, and the failed tasks."""
        found: dict[str, Any] = {}
        for _, ready in call_services(self._services, "ready", json_object):
            found.update(ready or {})
        failed = {
            f"{tasks.owner}: {name}": why
            for tasks in self._tasks
            for name, why in tasks.failed.items()
        }
        return {**found, **({"failed_tasks": failed} if failed else {})}

    def _plan_error(self, name: str) -> str:
        """Return why a load of a registered model would not even begin; empty if it would.

        Such a load leaves no error in the pool: the model's plugin was uninstalled, for example.
        """
        try:
            self._catalog.plan(name)
        except MataError as error:
            return error.detail
        return ""

    def _preloaded_models(self) -> list[tuple[str, str]]:
        models = self._catalog.settings.models
        wanted = [setting.model for setting in models if setting.preload]
        entries = self._catalog.entries()
        return [(name, entries[name].task) for name in wanted if name in entries]


def call_services(
    services: Iterable[tuple[str, Service]], method: str, kind: Callable[[Any], T]
) -> Iterator[tuple[str, T | None]]:
    """Yield the results of services with such a method, by name; None for those that failed."""
    for name, service in services:
        method_of = getattr(service, method, None)
        if method_of is None:
            continue
        found: T | None = None
        with ends_logged(log, "%s() of the plugin %s failed", method, name):
            found = kind(method_of())
        yield name, found


def json_object(given: Any) -> dict[str, Any]:
    """Return what a service adds to an answer. Raises ``TypeError`` if JSON cannot hold it."""
    found = dict(given)
    msgspec.json.encode(found)
    return found


def _reasons(given: Any) -> dict[str, str]:
    """Return what a service waits for. Raises ``ValidationError`` for anything but texts."""
    return msgspec.convert(dict(given), dict[str, str])
