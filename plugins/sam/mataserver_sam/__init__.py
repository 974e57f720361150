"""Segment Anything: the SAM3 inference API, and SAM 1, 2 and 3 for ``/v1/infer``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mataserver import hookimpl
from mataserver_sam.families import BACKENDS
from mataserver_sam.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mataserver import Backend, Context
    from mataserver_sam.api import SamService


@hookimpl
def settings() -> type[Settings]:
    """Return the type of ``plugins.sam``."""
    return Settings


@hookimpl
def backends() -> Iterable[Backend]:
    """Return the backends of SAM 1, 2 and 3 and of Grounding DINO with a SAM."""
    return BACKENDS


@hookimpl
def service(ctx: Context) -> SamService:
    """Return the SAM3 inference API."""
    from mataserver_sam.api import SamService

    return SamService(ctx)
