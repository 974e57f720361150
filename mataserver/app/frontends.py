"""The parts of a server that is one of several front-ends."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from mataserver.app.hosting import Guest
from mataserver.frontends.roll import FOLDER, Roll
from mataserver.http.frontends import FrontendsService
from mataserver.http.relay import Elsewhere

if TYPE_CHECKING:
    from mataserver.app.upkeep import Pace
    from mataserver.config import Settings
    from mataserver.frontends.held import HeldNames
    from mataserver.http.budget import Budget
    from mataserver.http.routing import Table
    from mataserver.http.sockets import Sockets
    from mataserver.metrics import Metrics
    from mataserver.serving.sessions import SessionStore


def elsewhere(  # noqa: PLR0917 - the limits that apply to relayed requests
    settings: Settings,
    pace: Pace,
    held: HeldNames,
    table: Table,
    budget: Budget,
    sockets: Sockets,
    metrics: Metrics,
) -> Elsewhere | None:
    """Return the relay to other front-ends; None without a shared directory."""
    if settings.shared_dir is None:
        return None
    roll = Roll(settings.shared_path / FOLDER, held, pace.silence)
    return Elsewhere(
        *(roll, table, budget, sockets, metrics, settings.unread_timeout),
        trust_proxy=settings.trust_proxy,
    )


def guest(
    settings: Settings, pace: Pace, found: Elsewhere, sessions: SessionStore, metrics: Metrics
) -> Guest:
    """Return the service that is entered before all others: sessions need its tag."""
    make = partial(
        FrontendsService,
        elsewhere=found,
        sessions=sessions,
        metrics=metrics,
        address=settings.frontend_address,
        beat=pace.beat,
        patience=pace.silence,
    )
    return Guest("frontends", make)
