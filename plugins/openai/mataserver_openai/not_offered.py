"""What OpenAI's clients ask for and the server has not: told in a sentence, in their own form.

They show nothing of the server's own 404, whose form is another: a program would only say 404.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from mataserver_openai.problem import chat_problem

if TYPE_CHECKING:
    from collections.abc import Callable

    from mataserver_openai.problem import ChatProblem

_CHAT = "use /v1/chat/completions (client.chat.completions.create)"
_REASONS = {
    "/v1/responses": f"is not offered: {_CHAT}",
    "/v1/completions": f"is not offered: {_CHAT}",
    "/v1/embeddings": "is not offered: OpenAI's are of texts; those of images are POST /v1/infer "
    "with a model of the task embed",
    "/chat/completions": "is not here: the client's base_url ends in /v1",
}
"""By path: why nothing is there, or what to use instead."""
_NO_ROUTE = "Not found"
"""What the router says of a path without a route; another plugin's routes there say their own."""


def error_forms() -> dict[str, Callable[[int, str], ChatProblem]]:
    """Return the forms of errors by path: no route is there, so each is the router's."""
    return {path: functools.partial(_problem, path) for path in _REASONS}


def _problem(path: str, status: int, detail: str) -> ChatProblem:
    """Return an error in OpenAI's form, with the reason of a 404."""
    is_ours = status == 404 and detail == _NO_ROUTE
    return chat_problem(status, f"{path} {_REASONS[path]}" if is_ours else detail)
