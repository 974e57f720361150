"""Durable jobs: work that takes minutes, shows how far it is, and survives its server."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mataserver import hookimpl
from mataserver_jobs.kinds import OWN, Job, JobKind
from mataserver_jobs.settings import Settings

if TYPE_CHECKING:
    from mataserver import Context
    from mataserver_jobs.api import JobsService

__all__ = ["Job", "JobKind"]


@hookimpl
def settings() -> type[Settings]:
    """Return the type of ``plugins.jobs``."""
    return Settings


@hookimpl
def brings() -> dict[str, tuple[str, ...]]:
    """Return the kinds of jobs of its own."""
    return {"jobs": OWN}


@hookimpl
def service(ctx: Context) -> JobsService:
    """Return the service."""
    from mataserver_jobs.api import JobsService

    return JobsService(ctx)
