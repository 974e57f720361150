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

_CHAT = "use {base}/chat/completions (client.chat.completions.create)"
_ABSENT = "is not offered"
_REASONS = {
    "responses": f"{_ABSENT}: {_CHAT}",
    "completions": f"{_ABSENT}: {_CHAT}",
    "embeddings": f"{_ABSENT}: OpenAI's are of texts; those of images are POST /v1/infer with a "
    "model of the task embed",
    **dict.fromkeys(
        (
            "assistants",
            "audio",
            "batches",
            "containers",
            "conversations",
            "evals",
            "files",
            "fine_tuning",
            "images",
            "moderations",
            "realtime",
            "skills",
            "threads",
            "vector_stores",
            "videos",
        ),
        _ABSENT,
    ),
}
"""By path below a base URL: why nothing is there, or what to use instead."""
_BASES = ("/v1", "/openai/v1")
_NO_ROUTE = "Not found"
"""What the router says of a path without a route; another plugin's routes there say their own."""


def error_forms() -> dict[str, Callable[[int, str], ChatProblem]]:
    """Return the forms of errors by path: no route is there, so each is the router's."""
    reasons = {
        f"{base}/{path}": reason.format(base=base)
        for base in _BASES
        for path, reason in _REASONS.items()
    }
    for base in ("", "/openai"):  # a base URL that lacks its version
        need = f"; the client's base_url must end in {base}/v1"
        for path in ("responses", "completions", "embeddings"):
            reasons[f"{base}/{path}"] = _REASONS[path].format(base=f"{base}/v1") + need
    return {path: functools.partial(_problem, f"{path} {why}") for path, why in reasons.items()}


def _problem(reason: str, status: int, detail: str) -> ChatProblem:
    """Return an error in OpenAI's form, with the reason of a 404."""
    is_ours = status == 404 and detail == _NO_ROUTE
    return chat_problem(status, reason if is_ours else detail)
