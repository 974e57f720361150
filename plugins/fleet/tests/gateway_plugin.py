"""A plugin that is the gateway alone, for tests that say themselves what it goes by."""

from __future__ import annotations

from rebinding import HttpWithResolver

from mataserver import hookimpl
from mataserver_fleet.gateway.gateway import Gateway
from mataserver_fleet.gateway.options import GatewaySettings
from mataserver_fleet.gateway.video_sessions import VideoSessions

MADE = []
"""The gateways that were made, the newest last."""
CONTEXTS = []
"""What they were given, the newest last."""
NAMES = []
"""The resolver of the next gateway; it uses the system's where there is none."""


class Service:
    def __init__(self, ctx):
        http = HttpWithResolver(ctx.http, NAMES.pop()) if NAMES else ctx.http
        self.gateway = Gateway(http, ctx.settings, 0.5, VideoSessions.create)
        self.claims = self.gateway.claims
        MADE.append(self.gateway)
        CONTEXTS.append(ctx)

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
