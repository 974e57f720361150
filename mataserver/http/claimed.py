"""Requests that a service claimed and whose head is known: the service gets request and body.

What else it would be asked of such a request it has answered once: whether it claims it, whose the
key is, what of the head concerns others. It says before each whether that still holds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mataserver.http.caching import CachingConversation
from mataserver.http.heads import Claim
from mataserver.http.hits import Hit
from mataserver.http.middleware import REQUEST_ID, new_id, require_room, size_of
from mataserver.http.protocol import Whole
from mataserver.http.routing import CLAIMED

if TYPE_CHECKING:
    from aiohttp import web

    from mataserver.contract.web import RepeatedClaim, Share
    from mataserver.http.heads import KnownClaim
    from mataserver.http.middleware import Edge


def learn(request: web.Request, repeat: RepeatedClaim) -> None:
    """Have requests with the head of one that a service claimed be answered by ``repeat``."""
    conversation = request.protocol
    if isinstance(conversation, CachingConversation):
        conversation.learn_claimed(request, Claim(repeat, ClaimedHit))


class ClaimedHit(Hit):
    """One of them."""

    __slots__ = ("_request", "_respond_to")

    def __init__(
        self, conversation: CachingConversation, edge: Edge, known: KnownClaim, share: Share
    ) -> None:
        super().__init__(conversation, edge, known, share)
        self._respond_to = known.claim.repeat.responder()

    def _begin_answer(self) -> bool:
        """Leave all of it to a task: services answer in coroutines."""
        return False

    def _expire(self) -> None:
        """Leave a slow body to the service's own patience."""
        self._release()
        self._conversation.hand_over(b"".join(self._pieces), self._left)

    async def _respond(self, _refusal: Exception | None) -> None:
        request = self._conversation.request(self._known)
        try:
            if request is not None:
                request[REQUEST_ID] = new_id()
                request[CLAIMED] = _nobody
                self._request = request
                await self._deliver(request, await self._found())
        except BaseException:
            self._conversation.give_up()
            raise
        finally:
            self._release()
        self._conversation.go_on(self._early)

    async def _work(self) -> Any:
        response = await self._respond_to(self._request, self._body())
        require_room(self._edge.budget, size_of(response))
        return response

    async def _write(self, request: web.Request, finished: web.StreamResponse) -> None:
        if isinstance(finished, Whole):
            await finished.leave(request)
        await super()._write(request, finished)

    def _response(self, request: web.Request, found: Any) -> web.StreamResponse:
        """Return an answer as the middleware makes it."""
        response = self._edge.refuse(request, found) if isinstance(found, Exception) else found
        self._counted = True
        return self._edge.finish(request, response, self._begun)


async def _nobody(_request: web.Request) -> web.StreamResponse:
    """Never asked: it says that a request is claimed."""
    raise AssertionError
