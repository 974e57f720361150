"""``Context.http``: the services' interface to requests and answers, within the server's limits."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from mataserver.http import (
    bodies,
    codec,
    events,
    forms,
    head_bodies,
    json_body,
    origins,
    proxies,
    request_warnings,
    unknown_fields,
    uploads,
)
from mataserver.http.budget import BudgetShare
from mataserver.http.routing import ROUTE

if TYPE_CHECKING:
    import asyncio
    from collections.abc import AsyncIterable, AsyncIterator, Callable, Sequence
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from aiohttp import web

    from mataserver.contract.bodies import Form, Saved, Uploads
    from mataserver.contract.routes import Event
    from mataserver.errors import MataError
    from mataserver.http.budget import Budget
    from mataserver.http.cookies import Cookies
    from mataserver.http.in_process import InProcessConnector
    from mataserver.http.routing import RouteTable
    from mataserver.http.sockets import ServiceSockets
    from mataserver.outbound import Outbound
    from mataserver.principals import Principal

T = TypeVar("T")
P = TypeVar("P", bound="asyncio.Protocol")


class ServiceHttp:
    """See ``mataserver.contract.web.Http``."""

    require_json = staticmethod(codec.require_json)
    learn = staticmethod(head_bodies.learn)

    def __init__(
        self,
        table: RouteTable,
        budget: Budget,
        sockets: ServiceSockets,
        outbound: Outbound,
        cookies: Cookies,
        in_process: InProcessConnector,
        *,
        trust_proxy: bool,
        cors_origins: Sequence[str],
    ) -> None:
        self._table = table
        self._budget = budget
        self._sockets = sockets
        self._cookies = cookies
        self.decode = budget.decode
        self.socket, self.connect = sockets.accept, in_process.connect
        self.outbound, self.check_outbound = outbound.request, outbound.check
        self._trust_proxy = trust_proxy
        self._cors_origins = cors_origins

    def read_body(self, request: web.Request) -> AbstractAsyncContextManager[bytes]:
        """Yield the whole body."""
        return bodies.BodyReader(request, self._budget, self._table.limits(request))

    @contextlib.asynccontextmanager
    async def read_json(self, request: web.Request, kind: type[T]) -> AsyncIterator[T]:
        """Yield the body as a ``kind``."""
        codec.require_json(request)
        async with self.read_body(request) as data:
            asked, warning = await self._budget.decode(
                data, partial(json_body.decode_with_warning, kind=kind)
            )
            del data
            request_warnings.warn(request, warning)
            yield asked

    def warn_of_unknown(self, request: web.Request, data: bytes, kind: type[Any]) -> None:
        """Name the fields of a body that a ``kind`` does not have."""
        request_warnings.warn(request, unknown_fields.warning(data, kind))

    @contextlib.asynccontextmanager
    async def read_form(self, request: web.Request, *, field: str = "file") -> AsyncIterator[Form]:
        """Yield a form whose file is ``field``."""
        boundary = forms.boundary(request)
        self.check_origin(request)
        async with self.read_body(request) as data:
            form = await forms.read(data, boundary, field)
            del data
            yield form

    def check_origin(self, request: web.Request) -> None:
        """Raise ``Forbidden`` for a request of a page of another origin."""
        origins.check(request, self._cors_origins, trust_proxy=self._trust_proxy)

    async def save_body(self, request: web.Request, path: Path, *, field: str = "file") -> Saved:
        """Write an upload to a file as it arrives.

        Checks the origin: browsers send forms and plain bodies cross-origin without a preflight.
        """
        self.check_origin(request)
        saved = await uploads.save(request, path, field, self._table.limits(request))
        if (route := request.get(ROUTE)) is not None:  # a claimed request has none
            request_warnings.warn_of_fields(request, route, saved.fields)
        return saved

    async def save_files(self, request: web.Request, folder: Path, *, most: int = 1000) -> Uploads:
        """Write every file of a form into a folder as they arrive; see ``save_body``."""
        self.check_origin(request)
        return await uploads.save_files(request, folder, most, self._table.limits(request))

    def read_chunks(self, request: web.Request) -> AsyncIterator[bytes]:
        """Iterate over the body as it arrives."""
        self.check_origin(request)
        return uploads.chunks(request, self._table.limits(request))

    def respond(
        self, value: object, *, status: int = 200, request: web.Request | None = None
    ) -> web.Response:
        """Answer with a value as JSON, or as MessagePack if the request accepts it."""
        form = "json" if request is None else codec.requested_format(request)
        return codec.respond(value, status=status, form=form)

    async def events(
        self,
        request: web.Request,
        events_of: AsyncIterable[Event],
        failed: Callable[[MataError], bytes] | None = None,
    ) -> web.StreamResponse:
        """Answer with Server-Sent Events."""
        patience, failed = self._sockets.unread_timeout, failed or events.error_event
        given = aiter(events_of)
        # a generator is closed itself, at once: one around it would leave it to the collector
        items = given if isinstance(given, AsyncGenerator) else (each async for each in given)
        return await events.send(request, items, events.encode, patience, render_error=failed)

    def raw_socket(
        self, request: web.Request, protocols: Sequence[str] = ()
    ) -> AbstractAsyncContextManager[web.WebSocketResponse]:
        """Accept a WebSocket as a relay does."""
        return self._sockets.accept_raw(request, protocols)

    def budget(self, owner: str | None = None) -> BudgetShare:
        """Return an empty share of the budget of bytes in flight, within that of an owner."""
        return BudgetShare(self._budget, owner)

    def address(self, request: web.Request) -> str:
        """Return the client's address."""
        return proxies.client(request, trusted=self._trust_proxy)

    def url(self, request: web.Request, scheme: Literal["http", "ws"] = "http") -> str:
        """Return the base URL by which the client knows the server."""
        return proxies.public_address(request, trusted=self._trust_proxy).url(scheme)

    def sign_in(self, request: web.Request, response: web.Response, principal: Principal) -> str:
        """Start a browser session; return its CSRF token."""
        return self._cookies.sign_in(request, response, principal).csrf

    def sign_out(self, request: web.Request, response: web.Response) -> None:
        """End the browser session of the request, if there is one."""
        self.check_origin(request)
        self._cookies.sign_out(request, response)
