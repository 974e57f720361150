"""Where a camera is: its address, what of it may be shown, and who may name it.

The addresses of cameras carry passwords, so only the scheme, the host and the port are ever shown;
of a file its name. What the configuration names under ``cameras`` is trusted. What a client names
must be allowed by ``camera_hosts`` or ``camera_paths``.
"""

from __future__ import annotations

import ipaddress
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from mataserver import ConfigError, InvalidParams

if TYPE_CHECKING:
    from collections.abc import Sequence
    from urllib.parse import SplitResult

    from mataserver_cameras.messages import Kind

    Network = ipaddress.IPv4Network | ipaddress.IPv6Network

MAX_LENGTH = 2048
_SCHEMES: dict[str, Kind] = {"rtsp": "rtsp", "rtsps": "rtsp", "http": "http", "https": "http"}
_DEVICE = re.compile(r"/dev/video\d{1,3}")
_HOST = re.compile(r"[A-Za-z0-9._-]{1,253}|[0-9A-Fa-f:.]{2,45}")
# What two parsers of URLs may read differently: the host that is checked must be the one asked.
_AMBIGUOUS = re.compile(r"[\\\s#]")


@dataclass(frozen=True, slots=True)
class Source:
    """A camera's address. ``host`` is empty for what is not in the network."""

    url: str = field(repr=False)
    kind: Kind
    shown: str
    host: str = ""


def parse(text: str) -> Source:
    """Read an address. Raises ``InvalidParams``, whose sentence does not repeat it."""
    if not text.isprintable() or len(text) > MAX_LENGTH:
        raise InvalidParams(f"source: expected at most {MAX_LENGTH} printable characters")
    if text.startswith("/"):
        return _local(text)
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        raise _invalid_url(text) from None
    kind = _SCHEMES.get(parts.scheme)
    if kind is None:
        raise InvalidParams(
            "source: expected rtsp://, rtsps://, http://, https://, /dev/videoN, "
            "or the absolute path of a file"
        )
    host = parts.hostname or ""
    if not _HOST.fullmatch(host) or _AMBIGUOUS.search(text):
        raise _invalid_url(text)
    return Source(text, kind, _shown(parts, host, port), host)


def _invalid_url(text: str) -> InvalidParams:
    """Return the error of a URL; with an ``@`` the password is the likeliest cause."""
    hint = "; in a user name or password write # as %23, / as %2F, ? as %3F, % as %25"
    return InvalidParams("source: not a valid URL" + (hint if "@" in text else ""))


def _local(text: str) -> Source:
    path = os.path.normpath(text)
    kind: Kind = "device" if _DEVICE.fullmatch(path) else "file"
    if kind == "file" and path.startswith("/dev/"):
        raise InvalidParams("source: the only devices that are read are /dev/videoN")
    return Source(path, kind, path if kind == "device" else Path(path).name)


def _shown(parts: SplitResult, host: str, port: int | None) -> str:
    """Return the address without user, password, path and query: each of them may be a secret."""
    name = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{name}" + (f":{port}" if port else "")


class AllowedSources:
    """What clients may name. Hosts are names, addresses or networks; paths are files or folders."""

    def __init__(self, hosts: Sequence[str], paths: Sequence[str]) -> None:
        """Read the settings. Raises ``ConfigError`` for a network that is none."""
        self._names = {host.lower() for host in hosts if _network(host) is None}
        self._networks = [net for net in map(_network, hosts) if net is not None]
        self._paths = [os.path.realpath(path) for path in paths]
        for index, host in enumerate(hosts):
            if "/" in host and _network(host) is None:
                raise ConfigError(f"configuration: camera_hosts[{index}]: not a network")

    def check(self, source: Source) -> None:
        """Raise ``InvalidParams`` unless clients may name the source. Looks at the disk."""
        if source.host:
            if not self._host(source.host):
                raise InvalidParams("source: this host is not one of camera_hosts")
        elif not self._path(source.url):
            raise InvalidParams("source: this path is not under one of camera_paths")

    def _host(self, host: str) -> bool:
        """Whether a host is listed. A name is never resolved: it must be listed itself."""
        if host.lower() in self._names:
            return True
        try:
            address = ipaddress.ip_address(host)
        except ValueError:
            return False
        return any(address in network for network in self._networks)

    def _path(self, path: str) -> bool:
        real = os.path.realpath(path)
        return any(real == each or real.startswith(each.rstrip("/") + "/") for each in self._paths)


def _network(text: str) -> Network | None:
    try:
        return ipaddress.ip_network(text, strict=False)
    except ValueError:
        return None
