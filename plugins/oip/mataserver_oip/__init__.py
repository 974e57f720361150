"""The Open Inference Protocol, version 2, over REST and gRPC.

Both hand the same requests to the same server and get the same tensors back.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mataserver import hookimpl
from mataserver_oip.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mataserver import CheckSession, Context
    from mataserver_oip.api import InferenceProtocol


@hookimpl
def settings() -> type[Settings]:
    """Return the type of ``plugins.oip``."""
    return Settings


@hookimpl
def check(settings: Settings, session: CheckSession) -> Iterable[str]:  # noqa: ARG001 - the hook's
    """Return what is missing for gRPC, if it is turned on."""
    from mataserver_oip import installation

    return installation.problems(settings)


@hookimpl
def service(ctx: Context) -> InferenceProtocol:
    """Return the service."""
    from mataserver_oip.api import InferenceProtocol  # what only a server needs

    return InferenceProtocol(ctx)
