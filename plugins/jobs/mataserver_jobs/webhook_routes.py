"""``/v1/webhooks``: addresses that are notified when jobs end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from aiohttp import web
from msgspec import Meta, Struct

from mataserver import Body, Route, check_query
from mataserver_jobs.routes import JSON, asker, owner_of
from mataserver_jobs.webhook_delivery import policy
from mataserver_jobs.webhooks import MadeWebhook, Webhook

if TYPE_CHECKING:
    from typing import Protocol

    from mataserver import Context
    from mataserver_jobs.webhooks import Webhooks

    class Served(Protocol):
        """What has the webhooks, once it is entered."""

        webhooks: Webhooks


MAX_BODY = 65_536


class NewWebhook(Struct, forbid_unknown_fields=True):
    """Where to tell of every job of who asks that ends."""

    url: Annotated[
        str,
        Meta(
            min_length=1,
            max_length=2048,
            pattern=r"^[\x21-\x7e]+\Z",
            description="a URL of printable ASCII without spaces",
        ),
    ]


class WebhookList(Struct, frozen=True):
    """The webhooks that who asks may see."""

    webhooks: list[Webhook]


class WebhookRoutes:
    """The handlers."""

    def __init__(self, ctx: Context, service: Served) -> None:
        self._ctx = ctx
        self._service = service

    def all(self) -> list[Route]:
        """Return the routes."""
        read: dict[str, Any] = {"tag": "jobs", "needs": "jobs:read"}
        write = {**read, "needs": "jobs:write"}
        example = {"url": "https://example.com/jobs"}
        return [
            Route("GET", "/v1/webhooks", self.list, "List webhooks",
                  response=(Body(JSON, WebhookList),), errors=(422, 503), **read),
            Route("POST", "/v1/webhooks", self.add, "Call an address when jobs end",
                  request=(Body(JSON, NewWebhook, example),), response=(Body(JSON, MadeWebhook),),
                  status=201, errors=(400, 408, 409, 413, 415, 422, 503), max_body=MAX_BODY,
                  **write),
            Route("DELETE", "/v1/webhooks/{id}", self.remove, "Remove a webhook", status=204,
                  errors=(404, 503), **write),
        ]  # fmt: skip

    async def list(self, request: web.Request) -> web.Response:
        """Answer with the webhooks."""
        check_query(request, ())
        found = await self._service.webhooks.all(owner_of(request))
        return self._ctx.http.respond(WebhookList(found), request=request)

    async def add(self, request: web.Request) -> web.Response:
        """Make a webhook; 201 with its secret, this once."""
        async with self._ctx.http.read_json(request, NewWebhook) as asked:
            pass
        await self._ctx.http.check_outbound(asked.url, policy())
        made = await self._service.webhooks.add(asker(request).id, asked.url)
        response = self._ctx.http.respond(made, status=201, request=request)
        response.headers["Cache-Control"] = "no-store"
        return response

    async def remove(self, request: web.Request) -> web.Response:
        """Remove a webhook."""
        await self._service.webhooks.remove(request.match_info["id"], owner_of(request))
        return web.Response(status=204)
