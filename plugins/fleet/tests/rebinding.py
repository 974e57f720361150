"""A name whose address is another one whenever whoever owns it likes."""

from __future__ import annotations

from aiohttp.abc import AbstractResolver

from mataserver.outbound import Hosts, Outbound

NAME = "triton.example"


class RebindingResolver(AbstractResolver):
    """Resolves ``NAME`` to ``address``, and counts how often it is asked."""

    def __init__(self, address="127.0.0.1"):
        self.address = address
        self.asked = 0

    async def resolve(self, host, port=0, family=0):
        if host != NAME:
            raise OSError("no such name")
        self.asked += 1
        found = {"hostname": host, "host": self.address, "port": port}
        return [{**found, "family": 2, "proto": 0, "flags": 4}]

    async def close(self):
        pass


class HttpWithResolver:
    """``Context.http`` of a server that resolves by ``RebindingResolver`` and may ask 127.0.0.1."""

    def __init__(self, http, resolver):
        self._http = http
        self._outbound = Outbound(Hosts.of(["127.0.0.1"]), resolver)

    def __getattr__(self, name):
        return getattr(self._http, name)

    async def check_outbound(self, url, policy):
        return await self._outbound.check(url, policy)
