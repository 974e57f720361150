"""The service: routes, beside the server's own and below ``/openai/v1``, and the form of errors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from mataserver_openai import not_offered
from mataserver_openai.completions import Completions
from mataserver_openai.models import ModelList
from mataserver_openai.problem import chat_problem

if TYPE_CHECKING:
    from collections.abc import Callable

    from mataserver import Context, Route
    from mataserver_openai.problem import ChatProblem


class OpenAI:
    """Chat completions and models; it keeps nothing between requests."""

    def __init__(self, ctx: Context) -> None:
        self._parts = (Completions(ctx), ModelList(ctx))

    def routes(self) -> list[Route]:
        """Return the routes."""
        return [route for part in self._parts for route in part.routes()]

    def error_forms(self) -> dict[str, Callable[[int, str], ChatProblem]]:
        """Return the forms of errors."""
        own = dict.fromkeys(("/v1/chat", "/chat/completions", "/openai"), chat_problem)
        return {**own, **not_offered.error_forms()}

    async def __aenter__(self) -> Self:
        """Start: there is nothing to."""
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Stop: there is nothing to."""
