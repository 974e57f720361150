"""Health, readiness, metrics and plugins."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from aiohttp import web
from msgspec import UNSET, Struct, UnsetType

from mataserver import metrics
from mataserver.http import codec, readiness
from mataserver.http.routing import Body, Route
from mataserver.principals import ANYBODY

if TYPE_CHECKING:
    from mataserver.http.routing import State
    from mataserver.plugins import Plugin

log = logging.getLogger("mataserver.http")


class Health(Struct):
    """``GET /v1/health``."""

    status: str
    version: str
    gpu_available: bool


class Ready(Struct):
    """``GET /ready``; with 503 ``waiting`` says what for, and ``detail`` says it in a sentence."""

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
    """One plugin; ``error`` says why it is not in use, ``note`` what waits for a restart."""

    name: str
    distribution: str
    version: str
    backends: list[BackendInfo]
    error: str | UnsetType = UNSET
    note: str | UnsetType = UNSET


def routes(state: State) -> list[Route]:
    """Return this module's routes."""
    api = _Health(state)
    json = codec.JSON
    health = (Body(json, Health),)
    return [
        Route("GET", "/v1/health", api.health, "Server status", "health",
              response=health, public=True),
        Route("GET", "/health", api.ping, "Server status with the plugins' own", "health",
              response=(Body(json, dict[str, Any]),), public=True),
        Route("GET", "/ready", api.ready, "Whether requests can be served now", "health",
              response=(Body(json, Ready),), errors=(503,), public=True),
        Route("GET", "/metrics", api.metrics, "Prometheus metrics", "health",
              response=(Body("text/plain"),), public=state.settings.metrics_public,
              needs=ANYBODY),
        Route("GET", "/v1/plugins", api.plugins, "Installed plugins and their backends", "plugins",
              response=(Body(json, list[PluginInfo]),), needs="models:read"),
    ]  # fmt: skip


class _Health:
    def __init__(self, state: State) -> None:
        self._state = state

    def _health(self) -> Health:
        gpus = bool(self._state.probe.gpus())
        return Health("ok", self._state.version, gpus)

    async def health(self, _request: web.Request) -> web.Response:
        return codec.respond(self._health())

    async def ping(self, _request: web.Request) -> web.Response:
        health = self._health()
        answer: dict[str, Any] = {
            "status": self._state.settings.health_status,
            "version": health.version,
            "gpu_available": health.gpu_available,
        }
        for name, service in self._state.services:
            ping = getattr(service, "ping", None)
            if ping is None:
                continue
            try:
                answer.update(ping())
            except Exception:
                log.exception("ping() of the plugin %s failed", name)
        return codec.respond(answer)

    async def ready(self, _request: web.Request) -> web.Response:
        waiting = readiness.waiting(self._state)
        if waiting:
            answer = Ready("not ready", readiness.sentence(waiting), waiting)
            return codec.respond(answer, status=503)
        return codec.respond({"status": "ready", **readiness.added(self._state)})

    async def metrics(self, _request: web.Request) -> web.Response:
        body = self._state.metrics.render()
        return web.Response(body=body, headers={"Content-Type": metrics.CONTENT_TYPE})

    async def plugins(self, _request: web.Request) -> web.Response:
        return codec.respond(
            [_describe(plugin, self._state) for plugin in self._state.plugins.found]
        )


def _describe(plugin: Plugin, state: State) -> PluginInfo:
    offers = [offer for offer in state.plugins.offers if offer.plugin is plugin]
    backends = []
    for offer in offers:
        backend, missing = offer.backend, list(offer.missing)
        install = f"pip install {' '.join(backend.packages)}" if missing else UNSET
        backends.append(
            BackendInfo(
                backend.name, backend.task, backend.source, backend.engine, missing, install
            )
        )
    error = UNSET if plugin.error is None else plugin.error
    note = UNSET if plugin.note is None else plugin.note
    return PluginInfo(plugin.name, plugin.distribution, plugin.version, backends, error, note)
