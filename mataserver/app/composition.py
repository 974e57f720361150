"""Composition of a server from settings and plugins. Requests cannot reach its parts."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from mataserver.app import hosting
from mataserver.app.hosting import ServiceFactory
from mataserver.app.lifetime import lifetime
from mataserver.app.server import ComposedServer
from mataserver.http import admission
from mataserver.http.docs import DocsService
from mataserver.http.frontends import FrontendsService
from mataserver.http.health import HealthService
from mataserver.http.infer import InferService
from mataserver.http.login import LoginService
from mataserver.http.models import ModelsService
from mataserver.http.pages import PagesService
from mataserver.http.pulls import PullsService
from mataserver.http.sessions import SessionsService
from mataserver.http.settings import SettingsService

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

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
    *,
    environ: Mapping[str, str] | None = None,
) -> ComposedServer:
    """Compose a server; ``set_by`` maps settings to their origins, as ``config.read`` does.

    ``engines`` overrides its own, by name; ``environ`` the environment that plugins' ``auth_mode``
    is asked with. Registers the defaults on a fresh data directory. Raises a ``MataError`` for
    unusable settings, registry or plugins (with ``plugins.strict``).
    """
    composed = ComposedServer(
        settings, plugins, probe, pace, engines, set_by=set_by, environ=environ
    )
    composed.application.cleanup_ctx.append(partial(lifetime, composed))
    factories = (
        *_builtin_services(composed),
        *_plugin_services(composed.plugins),
    )
    hosting.add_services(
        composed.application,
        composed.table,
        composed.gate,
        composed.hosting.create(factories, composed.context()),
        admission.expect_handler(composed.table, composed.gate, composed.relay),
    )
    composed.plugins.check_strict()
    return composed


def _builtin_services(composed: ComposedServer) -> Iterator[ServiceFactory]:
    """Yield the server's own services; of overlapping routes the first one matches."""
    models, services, settings = composed.models, composed.hosting.services, composed.settings
    relay, sessions, metrics = composed.relay, composed.sessions, composed.metrics
    if relay is not None:  # entered before all others: sessions need its tag
        address, pace = settings.frontend_address, composed.pace
        yield ServiceFactory(
            "frontends",
            lambda ctx: FrontendsService(
                ctx, relay, sessions, metrics, address=address, beat=pace.beat, timeout=pace.silence
            ),
        )
    yield ServiceFactory(
        "health",
        lambda ctx: HealthService(
            ctx, composed.readiness, composed.plugins, composed.memory, metrics, services,
            status=settings.health_status, metrics_public=settings.metrics_public,
        ),
    )  # fmt: skip
    yield ServiceFactory("pulls", lambda ctx: PullsService(ctx, models, composed.pulls))
    yield ServiceFactory("models", lambda ctx: ModelsService(ctx, models))
    yield ServiceFactory("infer", lambda ctx: InferService(ctx, models, composed.observers))
    yield ServiceFactory(
        "sessions", lambda ctx: SessionsService(ctx, composed.served_sessions, services)
    )
    yield ServiceFactory("stream", lambda _: composed.streams)
    yield ServiceFactory(
        "login",
        lambda ctx: LoginService(ctx, composed.gate, composed.browsers, composed.cookies),
    )
    yield ServiceFactory("pages", lambda _: PagesService(composed.pages))
    yield ServiceFactory(
        "settings",
        lambda _: SettingsService(
            lambda: composed.catalog.settings, composed.set_by, composed.plugins
        ),
    )
    trust_proxy = composed.settings.trust_proxy
    yield ServiceFactory(
        "docs", lambda _: DocsService(composed.openapi_document, trust_proxy=trust_proxy)
    )


def _plugin_services(plugins: Plugins) -> Iterator[ServiceFactory]:
    for plugin in plugins.usable:
        if "service" in plugin.hooks:
            yield ServiceFactory(plugin.name, plugin.hooks["service"], plugin)
