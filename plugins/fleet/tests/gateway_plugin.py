"""A plugin that is the gateway alone, for tests that say themselves what it goes by."""

from __future__ import annotations

from mataserver import hookimpl
from mataserver_fleet.gateway.gateway import Gateway
from mataserver_fleet.gateway.options import GatewaySettings
from mataserver_fleet.gateway.streams import Streams

MADE = []
"""The gateways that were made, the newest last."""


class Service:
    def __init__(self, ctx):
        self.gateway = Gateway(ctx.http, ctx.settings, 0.5, Streams)
        self.claims = self.gateway.claims
        MADE.append(self.gateway)

    def routes(self):
        return ()

    async def __aenter__(self):
        await self.gateway.__aenter__()
        return self

    async def __aexit__(self, *exc):
        await self.gateway.__aexit__(*exc)


@hookimpl
def settings():
    return GatewaySettings


@hookimpl
def service(ctx):
    return Service(ctx)
