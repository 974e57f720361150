"""Hosts and URLs: what listens where, and how this machine reaches it."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING

from mataserver.config.settings import EVERY

if TYPE_CHECKING:
    from mataserver.config.settings import Settings


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach ``host``; the only name accepted is "localhost"."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def base_url(host: str, port: int) -> str:
    """Return a base URL, with brackets around an IPv6 address."""
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def local_url(host: str, port: int) -> str:
    """Return the URL at which this machine reaches a server that listens on ``host``."""
    return base_url("localhost" if host in EVERY else host, port)


def server_url(settings: Settings) -> str:
    """Return the URL of the server that these settings start."""
    return local_url(settings.host, settings.port)
