"""The Open Inference Protocol, version 2, over REST and gRPC.

Both hand the same requests to the same server and get the same tensors back.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mataserver import hookimpl
from mataserver_oip.settings import Settings

if TYPE_CHECKING:
    from mataserver import Context
    from mataserver_oip.api import InferenceProtocol


@hookimpl
def settings() -> type[Settings]:
    """Return the type of ``plugins.oip``."""
    return Settings


@hookimpl
def service(ctx: Context) -> InferenceProtocol:
    """Return the service."""
    from mataserver_oip.api import InferenceProtocol  # what only a server needs

    return InferenceProtocol(ctx)
