"""The parts of a server that is one of several front-ends."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from mataserver.app.hosting import ServiceFactory
from mataserver.frontends.directory import FOLDER, FrontendDirectory
from mataserver.http.frontends import FrontendsService
from mataserver.http.relay import FrontendRelay

if TYPE_CHECKING:
    from mataserver.app.maintenance import MaintenanceIntervals
    from mataserver.config import Settings
    from mataserver.frontends.resource_ids import ResourceIds
    from mataserver.http.budget import Budget
    from mataserver.http.routing import RouteTable
    from mataserver.http.sockets import ServiceSockets
    from mataserver.metrics import Metrics
    from mataserver.serving.sessions import SessionStore


def make_relay(  # noqa: PLR0917 - the limits that apply to relayed requests
    settings: Settings,
    pace: MaintenanceIntervals,
    held: ResourceIds,
    table: RouteTable,
    budget: Budget,
    sockets: ServiceSockets,
    metrics: Metrics,
) -> FrontendRelay | None:
    """Return the relay to other front-ends; None without a shared directory."""
    if settings.shared_dir is None:
        return None
    directory = FrontendDirectory(settings.shared_path / FOLDER, held, pace.silence)
    return FrontendRelay(
        *(directory, table, budget, sockets, metrics, settings.unread_timeout),
        trust_proxy=settings.trust_proxy,
    )


def frontends_service(
    settings: Settings,
    pace: MaintenanceIntervals,
    found: FrontendRelay,
    sessions: SessionStore,
    metrics: Metrics,
) -> ServiceFactory:
    """Return the service that is entered before all others: sessions need its tag."""
    make = partial(
        FrontendsService,
        relay=found,
        sessions=sessions,
        metrics=metrics,
        address=settings.frontend_address,
        beat=pace.beat,
        timeout=pace.silence,
    )
    return ServiceFactory("frontends", make)
