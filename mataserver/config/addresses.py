"""Hosts and URLs: what listens where, and how this machine reaches it."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING

from mataserver.config.settings import EVERY

if TYPE_CHECKING:
    from mataserver.config import Settings


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach ``host``; the only name accepted is "localhost"."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def local_url(host: str, port: int) -> str:
    """Return the URL at which this machine reaches a server that listens on ``host``."""
    reachable = "localhost" if host in EVERY else host
    return f"http://[{reachable}]:{port}" if ":" in reachable else f"http://{reachable}:{port}"


def server_url(settings: Settings) -> str:
    """Return the URL of the server that these settings start."""
    return local_url(settings.host, settings.port)
