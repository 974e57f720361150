"""What the extra ``grpc`` installs, looked for without an import."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mataserver_oip.settings import Settings

GRPC_MISSING = "grpc_port needs a package: pip install 'mataserver-oip[grpc]'"


def problems(settings: Settings) -> Iterator[str]:
    """Yield what would stop the start: gRPC is turned on without its packages."""
    if settings.grpc_port is not None and not (_is_here("grpc") and _is_here("google.protobuf")):
        yield GRPC_MISSING


def _is_here(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # not even the package that it is in
        return False
