"""The settings of ``plugins.fleet``."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from mataserver_fleet.gateway.options import GatewaySettings

Seconds = Annotated[float, Meta(gt=0.0, le=3600.0)]


class Settings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where the fleet's files are, and how its Tritons are asked.

    folder:       where models' files are, by default ``fleet`` in the data directory. Servers that
                  share a database share it too.
    probe:        seconds between two looks at a Triton.
    timeout:      seconds that a Triton may take for an answer, but for loading.
    load_timeout: seconds that it may take to load a model.
    gateway:      what consumers' requests may cost.
    """

    folder: Annotated[str, Meta(min_length=1)] | None = None
    probe: Seconds = 1.0
    timeout: Seconds = 5.0
    load_timeout: Seconds = 120.0
    gateway: GatewaySettings = GatewaySettings()
