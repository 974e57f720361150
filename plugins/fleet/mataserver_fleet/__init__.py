"""Many Tritons as one: models with versions, applications, consumers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mataserver import hookimpl
from mataserver_fleet.options import Settings

if TYPE_CHECKING:
    from mataserver import Context
    from mataserver_fleet.api import FleetService


@hookimpl
def settings() -> type[Settings]:
    """Return the type of ``plugins.fleet``."""
    return Settings


@hookimpl
def service(ctx: Context) -> FleetService:
    """Return the control plane."""
    from mataserver_fleet.api import FleetService

    return FleetService(ctx)
