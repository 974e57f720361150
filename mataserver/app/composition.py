"""Composition of a server from settings and plugins. Requests cannot reach its parts."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from mataserver.app import frontends, hosting
from mataserver.app.builder import ServerBuilder
from mataserver.app.hosting import ServiceFactory
from mataserver.http import admission, error_responses
from mataserver.http.docs import DocsService
from mataserver.http.health import HealthService
from mataserver.http.infer import InferService
from mataserver.http.login import LoginService
from mataserver.http.models import ModelsService
from mataserver.http.pages import PagesService
from mataserver.http.pulls import PullsService
from mataserver.http.sessions import SessionsService
from mataserver.http.settings import SettingsService
from mataserver.http.stream import StreamService

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from mataserver.app.lifetime import ComposedServer
    from mataserver.app.maintenance import MaintenanceIntervals
    from mataserver.config import SetBy, Settings
    from mataserver.engines.memory import MemoryProbe
    from mataserver.engines.work import Engine
    from mataserver.plugins import Plugins


def build(
    settings: Settings,
    plugins: Plugins | None = None,
    probe: MemoryProbe | None = None,
    pace: MaintenanceIntervals | None = None,
    set_by: Mapping[str, SetBy] | None = None,
    engines: Mapping[str, Engine] | None = None,
) -> ComposedServer:
    """Compose a server; ``set_by`` maps settings to their origins.

    ``engines`` overrides its own, by name. Registers the defaults on a fresh data directory. Raises
    a ``MataError`` for unusable settings, registry or plugins (with ``plugins.strict``).
    """
    parts = ServerBuilder(settings, plugins, probe, pace, engines)
    composed = parts.compose()
    factories = (
        *_builtin_services(parts, composed, set_by or {}),
        *_plugin_services(parts.plugins),
    )
    expect_handler = admission.expect_handler(parts.table, parts.gate, parts.relay)
    expect = error_responses.with_error_form(expect_handler, parts.table.forms)
    hosting.add_services(
        composed.application,
        parts.table,
        parts.gate,
        parts.hosting.create(factories, parts.context_parts()),
        expect,
    )
    parts.plugins.check_strict()
    return composed


def _builtin_services(
    parts: ServerBuilder, composed: ComposedServer, set_by: Mapping[str, SetBy]
) -> Iterator[ServiceFactory]:
    """Yield the server's own services; of overlapping routes the first one matches."""
    services, settings, relay = parts.hosting.services, parts.settings, parts.relay
    if relay is not None:
        yield frontends.frontends_service(
            settings, parts.pace, relay, parts.sessions, parts.metrics
        )
    yield ServiceFactory(
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
    yield ServiceFactory("pulls", partial(PullsService, models=parts.models, pulls=composed.pulls))
    yield ServiceFactory("models", partial(ModelsService, models=parts.models))
    yield ServiceFactory(
        "infer", partial(InferService, models=parts.models, observers=parts.observers)
    )
    yield ServiceFactory(
        "sessions",
        partial(
            SessionsService,
            models=parts.models,
            sessions=parts.sessions,
            cameras=parts.cameras,
            services=services,
        ),
    )
    yield ServiceFactory("stream", partial(StreamService, streams=parts.streams))
    yield ServiceFactory(
        "login",
        partial(LoginService, gate=parts.gate, browsers=parts.browsers, cookies=parts.cookies),
    )
    yield ServiceFactory("pages", lambda _: PagesService(services))
    yield ServiceFactory(
        "settings",
        lambda _: SettingsService(lambda: parts.catalog.settings, set_by, parts.plugins),
    )
    yield ServiceFactory("docs", lambda _: DocsService(composed.openapi_document))


def _plugin_services(plugins: Plugins) -> Iterator[ServiceFactory]:
    """Yield the services of usable plugins."""
    for plugin in plugins.usable:
        if "service" in plugin.hooks:
            yield ServiceFactory(plugin.name, plugin.hooks["service"], plugin)
