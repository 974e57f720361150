"""Health, readiness, metrics and plugins."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

import msgspec
from aiohttp import web
from msgspec import UNSET, Struct, UnsetType

from mataserver import metrics
from mataserver.errors import shortage_error
from mataserver.http import codec, readiness
from mataserver.http.request_credentials import check_query
from mataserver.http.routing import Body, Route, StatelessService
from mataserver.principals import ANYBODY

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mataserver.contract.service import Context, Service
    from mataserver.engines.memory import MemoryProbe
    from mataserver.http.readiness import Readiness
    from mataserver.metrics import Metrics
    from mataserver.plugins import Plugin, Plugins

log = logging.getLogger("mataserver.http")


class Health(Struct):
    """``GET /v1/health``."""

    status: str
    version: str
    gpu_available: bool


class Ready(Struct):
    """``GET /ready``; with 503 ``waiting`` has the reasons by name, ``detail`` as a sentence."""

    status: str
    detail: str | UnsetType = UNSET
    waiting: dict[str, str] | UnsetType = UNSET


class BackendInfo(Struct):
    """One backend of a plugin; ``missing`` names packages that are not installed."""

    name: str
    task: str
    source: str
    engine: str
    missing: list[str]
    install: str | UnsetType = UNSET


class PluginInfo(Struct):
    """One plugin; ``error`` says why it is not in use, ``note`` what requires a restart."""

    name: str
    distribution: str
    version: str
    backends: list[BackendInfo]
    error: str | UnsetType = UNSET
    note: str | UnsetType = UNSET


class HealthService(StatelessService):
    """The service of the probes, the metrics and the list of plugins.

    ``services`` are all of the server's, by name; ``status`` is the healthy value in ``GET
    /health``.
    """

    def __init__(
        self,
        ctx: Context,
        readiness: Readiness,
        plugins: Plugins,
        probe: MemoryProbe,
        metrics: Metrics,
        services: Sequence[tuple[str, Service]],
        *,
        status: str,
        metrics_public: bool,
    ) -> None:
        self._version = ctx.version
        self._readiness = readiness
        self._plugins = plugins
        self._probe = probe
        self._metrics = metrics
        self._services = services
        self._status = status
        self._metrics_public = metrics_public
        self._rendering: asyncio.Task[bytes] | None = None

    def routes(self) -> list[Route]:
        """Return the routes."""
        json = codec.JSON
        health = (Body(json, Health),)
        return [
            Route("GET", "/v1/health", self._health, "Server status", "health",
                  response=health, public=True),
            Route("GET", "/health", self._ping, "Server status with the plugins' own", "health",
                  response=(Body(json, dict[str, Any]),), public=True),
            Route("GET", "/ready", self._ready, "Whether requests can be served now", "health",
                  response=(Body(json, Ready),), errors=(503,), public=True),
            Route("GET", "/metrics", self._render, "Prometheus metrics", "health",
                  response=(Body("text/plain"),), public=self._metrics_public,
                  needs=None if self._metrics_public else ANYBODY),
            Route("GET", "/v1/plugins", self._found, "Installed plugins and their backends",
                  "plugins", response=(Body(json, list[PluginInfo]),), errors=(422,),
                  needs="models:read"),
        ]  # fmt: skip

    def _info(self) -> Health:
        return Health("ok", self._version, bool(self._probe.gpus()))

    async def _health(self, _request: web.Request) -> web.Response:
        return codec.respond(self._info())

    async def _ping(self, _request: web.Request) -> web.Response:
        own = msgspec.structs.asdict(self._info()) | {"status": self._status}
        answer = dict(own)
        for _, found in readiness.call_services(self._services, "ping", readiness.json_object):
            answer.update(found or {})
            if answer["status"] == "ok":  # a protocol's own word, whatever the configuration's is
                own["status"] = "ok"
        return codec.respond(answer | own)  # what is the server's own, no plugin replaces

    async def _ready(self, _request: web.Request) -> web.Response:
        waiting = self._readiness.waiting()
        if waiting:
            reasons = "; ".join(f"{name}: {why}" for name, why in waiting.items())
            answer = Ready("not ready", f"Not ready: {reasons}", waiting)
            return codec.respond(answer, status=503)
        own = {"status": "ready"}
        return codec.respond({**own, **self._readiness.details(), **own})

    async def _render(self, _request: web.Request) -> web.Response:
        # Many who ask at once share one text: each would hold up everybody for milliseconds.
        if self._rendering is None:
            self._rendering = asyncio.ensure_future(self._rendered())
        body = await asyncio.shield(self._rendering)
        return web.Response(body=body, headers={"Content-Type": metrics.CONTENT_TYPE})

    async def _rendered(self) -> bytes:
        # In a thread: a GPU's driver may take long, most of all the first time.
        try:
            self._metrics.set_devices(await asyncio.to_thread(self._probe.devices))
        except Exception as error:  # no memory, no thread: just what the other metrics show then
            shortage = shortage_error(error)
            if shortage is None:
                raise
            log.warning("the memory of the devices cannot be read now: %s", shortage.detail)
        finally:
            self._rendering = None  # who asks from here on is told what happened until then
        return self._metrics.registry.render()

    async def _found(self, request: web.Request) -> web.Response:
        check_query(request, ())
        return codec.respond([_describe(each, self._plugins) for each in self._plugins.found])


def _describe(plugin: Plugin, plugins: Plugins) -> PluginInfo:
    backends = [
        BackendInfo(
            each.backend.name,
            each.backend.task,
            each.backend.source,
            each.backend.engine,
            list(each.missing),
            each.install_command if each.missing else UNSET,
        )
        for each in plugins.provided
        if each.plugin is plugin
    ]
    error = UNSET if plugin.error is None else plugin.error
    note = UNSET if plugin.note is None else plugin.note
    return PluginInfo(plugin.name, plugin.distribution, plugin.version, backends, error, note)
