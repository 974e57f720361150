"""Composition of a server from settings and plugins. Requests cannot reach its parts."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from mataserver.app import frontends, hosting
from mataserver.app.hosting import Guest
from mataserver.app.parts import Parts
from mataserver.http import admission, error_answers
from mataserver.http.cluster import ClusterService
from mataserver.http.docs import DocsService
from mataserver.http.health import HealthService
from mataserver.http.infer import InferService
from mataserver.http.login import LoginService
from mataserver.http.models import ModelsService
from mataserver.http.pages import PagesService
from mataserver.http.sessions import SessionsService
from mataserver.http.settings import SettingsService
from mataserver.http.stream import StreamService

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from mataserver.app.lifetime import Composed
    from mataserver.app.upkeep import Pace
    from mataserver.config import SetBy, Settings
    from mataserver.engines.memory import MemoryProbe
    from mataserver.engines.work import Engine
    from mataserver.plugins import Plugins


def build(
    settings: Settings,
    plugins: Plugins | None = None,
    probe: MemoryProbe | None = None,
    pace: Pace | None = None,
    set_by: Mapping[str, SetBy] | None = None,
    engines: Mapping[str, Engine] | None = None,
) -> Composed:
    """Compose a server; ``set_by`` maps settings to their origins.

    ``engines`` overrides its own, by name. Registers the defaults on a fresh data directory. Raises
    a ``MataError`` for unusable settings, registry or plugins (with ``plugins.strict``).
    """
    parts = Parts(settings, plugins, probe, pace, engines)
    composed = parts.composed()
    guests = (*_own(parts, composed, set_by or {}), *_plugins(parts.plugins))
    asked = admission.expectations(parts.table, parts.gate, parts.relay)
    expect = error_answers.expecting(asked, parts.table.forms)
    hosting.add(
        composed.application,
        parts.table,
        parts.gate,
        parts.hosting.open(guests, parts.given()),
        expect,
    )
    parts.plugins.check_strict()
    return composed


def _own(parts: Parts, composed: Composed, set_by: Mapping[str, SetBy]) -> Iterator[Guest]:
    """Yield the server's own services; of overlapping routes the first one matches."""
    services, settings, relay = parts.hosting.services, parts.settings, parts.relay
    if relay is not None:
        yield frontends.frontends_guest(settings, parts.pace, relay, parts.sessions, parts.metrics)
    yield Guest(
        "health",
        partial(
            HealthService,
            readiness=parts.readiness,
            plugins=parts.plugins,
            probe=parts.memory,
            metrics=parts.metrics,
            services=services,
            status=settings.health_status,
            metrics_public=settings.metrics_public,
        ),
    )
    yield Guest("models", partial(ModelsService, models=parts.models, pulls=composed.pulls))
    yield Guest("infer", partial(InferService, models=parts.models, observers=parts.observers))
    yield Guest(
        "sessions",
        partial(
            SessionsService,
            models=parts.models,
            sessions=parts.sessions,
            cameras=parts.cameras,
            services=services,
        ),
    )
    yield Guest("stream", partial(StreamService, streams=parts.streams))
    yield Guest(
        "login",
        partial(LoginService, gate=parts.gate, browsers=parts.browsers, cookies=parts.cookies),
    )
    yield Guest("pages", lambda _: PagesService(services))
    yield Guest(
        "settings",
        lambda _: SettingsService(lambda: parts.catalog.settings, set_by, parts.plugins),
    )
    ray = parts.loader.ray
    if ray is not None:
        yield Guest("cluster", lambda _: ClusterService(ray, parts.metrics))
    yield Guest("docs", lambda _: DocsService(composed.described))


def _plugins(plugins: Plugins) -> Iterator[Guest]:
    """Yield the services of usable plugins."""
    for plugin in plugins.usable:
        if "service" in plugin.hooks:
            yield Guest(plugin.name, plugin.hooks["service"], plugin)
