"""What OpenAI's clients ask for and the server has not: told in a sentence, in their own form.

They show nothing of the server's own 404, whose form is another, so a program would only say 404.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

from mataserver import NotFound, Route

if TYPE_CHECKING:
    from aiohttp import web

_CHAT = "use /v1/chat/completions (client.chat.completions.create)"
_REASONS = {
    "responses": _CHAT,
    "completions": _CHAT,
    "embeddings": "OpenAI's are of texts; those of images are POST /v1/infer with a model of the "
    "task embed",
    "images/generations": "the models of this server read images and make none",
}
"""Why there is no such route, or what to use, by the end of its path."""
_CHAT_WITHOUT_VERSION = "/chat/completions"

PREFIXES = (*(f"/v1/{name}" for name in _REASONS), _CHAT_WITHOUT_VERSION)
"""Where errors have OpenAI's form."""


def routes() -> list[Route]:
    """Return the routes, which are not documented: nothing but an error is there."""
    return [
        *(
            Route("POST", f"{base}/v1/{name}", _refuse, public=True)
            for base in ("", "/openai")
            for name in _REASONS
        ),
        Route("POST", _CHAT_WITHOUT_VERSION, _refuse, public=True),
    ]


async def _refuse(request: web.Request) -> NoReturn:
    """Raise ``NotFound`` with the reason."""
    path = request.path
    if path == _CHAT_WITHOUT_VERSION:
        raise NotFound(f"{path} is not here: the client's base_url ends in /v1")
    raise NotFound(f"{path} is not offered: {_REASONS[path.partition('/v1/')[2]]}")
