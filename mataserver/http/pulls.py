"""The pulls of this server: start one, list them with their progress, cancel one."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any, Literal, get_args

import msgspec
from msgspec import UNSET, Struct, UnsetType

from mataserver.contract.routes import LastEvent
from mataserver.errors import BadRequest, Conflict, InvalidParams, MataError, NotFound, Unavailable
from mataserver.http import codec, events, examples
from mataserver.http.request_credentials import check_query
from mataserver.http.routing import ROUTE, Body, Route, StatelessService
from mataserver.sources.messages import Progress, QueuePosition

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    from aiohttp import web

    from mataserver.contract.service import Context
    from mataserver.serving.models import ServedModels
    from mataserver.sources.messages import Step

MAX_TASK = 64
"""Characters of a task that are listed."""
FAILURES_KEPT = 32
"""Failed pulls that are listed; of more the oldest are forgotten."""

State = Literal["waiting", "pulling", "failed"]
_STATES = get_args(State)
_STATE = {"state": (State, False, "Only a pull in this state.")}


class PullBody(Struct):
    """``POST /v1/models/pull``."""

    model: codec.ModelName
    task: str


class PullStatus(Struct):
    """What became of a pull; ``warnings`` are sentences for a person, after it succeeded."""

    status: str
    model: str
    warnings: list[str] | UnsetType = UNSET


class PullInfo(Struct):
    """A pull that waits, runs or failed; one that succeeded is a model and no longer listed.

    ``place`` is its position in the queue, 0 if it does not wait; ``done_bytes`` and
    ``total_bytes`` are those of all its files, 0 until they are known; ``started_at`` is in Unix
    seconds; ``error`` is the message of a failed pull.
    """

    model: str
    task: str
    state: State
    started_at: float
    place: int = 0
    done_bytes: int = 0
    total_bytes: int = 0
    error: str | None = None

    def update(self, step: Step) -> None:
        """Record a progress event."""
        if isinstance(step, QueuePosition):
            self.state, self.place = "waiting", step.place
        elif isinstance(step, Progress):
            self.state, self.place = "pulling", 0
            self.done_bytes, self.total_bytes = step.done_bytes, step.total_bytes


class PullsService(StatelessService):
    """The service of pulls; ``pulls`` are those in progress, cancelled at shutdown."""

    def __init__(self, ctx: Context, models: ServedModels, pulls: set[asyncio.Task[Any]]) -> None:
        self._http = ctx.http
        self._patience = ctx.server.unread_timeout
        self._stopping = ctx.stopping
        self._models = models
        self._tasks = pulls
        self._running: dict[str, tuple[PullInfo, asyncio.Task[Sequence[str]]]] = {}
        self._failed: dict[str, PullInfo] = {}

    def routes(self) -> list[Route]:
        """Return the routes."""
        status = Body(codec.JSON, PullStatus)
        return [
            Route("POST", "/v1/models/pull", self.pull, "Download or install a model", "models",
                  request=(Body(codec.JSON, PullBody, examples.PULL),),
                  response=(status, Body(events.CONTENT_TYPE)), status=202,
                  errors=(400, 408, 409, 413, 415, 422, 500, 503), needs="models:write"),
            Route("GET", "/v1/pulls", self.list_pulls, "The pulls that wait, run or failed",
                  "models", response=(Body(codec.JSON, list[PullInfo]),), errors=(422,),
                  needs="models:read"),
            Route("DELETE", "/v1/pulls/{model_id:.+}", self.cancel,
                  "Cancel a pull, or forget a failed one", "models", response=(status,),
                  parameters=_STATE, errors=(404, 422), needs="models:write"),
        ]  # fmt: skip

    async def list_pulls(self, request: web.Request) -> web.Response:
        """Answer ``GET /v1/pulls``: those in progress and those that failed, oldest first."""
        check_query(request, ())
        found = [*self._failed.values(), *(info for info, _ in self._running.values())]
        return codec.respond(sorted(found, key=lambda info: info.started_at))

    async def cancel(self, request: web.Request) -> web.Response:
        """Answer ``DELETE /v1/pulls/{model_id}``."""
        name = request.match_info["model_id"]
        check_query(request, request[ROUTE].parameters)
        state = request.query.get("state")
        if state not in {None, *_STATES}:
            raise InvalidParams(f"state: must be one of {', '.join(_STATES)}")
        info, task = self._running.get(name) or (self._failed.get(name), None)
        if info is None or state not in {None, info.state}:
            raise NotFound(f"No pull of {name[:200]} is {state or 'in progress or has failed'}")
        if task is not None:
            task.cancel()
            return codec.respond(PullStatus("cancelled", name))
        del self._failed[name]
        return codec.respond(PullStatus("forgotten", name))

    async def pull(self, request: web.Request) -> web.StreamResponse:
        """Answer ``POST /v1/models/pull``, when it is done or with events."""
        async with self._http.read_json(request, PullBody) as given:
            model, task_name = given.model, given.task
        if "://" in model or model.startswith((".", "/", "~", "\\")):
            raise BadRequest("model must be a hub id or a backend's name, not a URL or a path")
        steps: asyncio.Queue[Step | None] = asyncio.Queue()
        task = self._start(model, task_name, steps)
        if events.is_requested(request):
            task.add_done_callback(lambda _: steps.put_nowait(None))
            progress = self._events(model, task, steps)
            try:
                return await events.send(
                    request, progress, events.encode, self._patience, status=202
                )
            finally:
                task.cancel()  # a client that watches a pull and disconnects cancels it
        # Without events, a client that disconnects does not cancel the download.
        return codec.respond(_status(model, await self._result(model, task)), status=202)

    def _start(
        self, model: str, task_name: str, steps: asyncio.Queue[Step | None]
    ) -> asyncio.Task[Sequence[str]]:
        """Start a pull and list it, unless it is the second one of a model: that will fail."""
        info = PullInfo(model, task_name[:MAX_TASK], "pulling", time.time())

        def on_step(step: Step) -> None:
            info.update(step)
            steps.put_nowait(step)

        task = asyncio.create_task(self._models.pull(model, task_name, on_step))
        self._tasks.add(task)
        if model not in self._running:
            self._running[model] = info, task
            self._failed.pop(model, None)
        task.add_done_callback(lambda _: self._ended(info, task))
        return task

    def _ended(self, info: PullInfo, task: asyncio.Task[Sequence[str]]) -> None:
        """Take a pull off the list, and list its failure; one that never began is not listed."""
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        entry = self._running.get(info.model)
        if entry is None or entry[1] is not task:
            return
        del self._running[info.model]
        if error is None or isinstance(error, (Conflict, Unavailable)):
            return
        info.state, info.place = "failed", 0
        info.error = error.detail if isinstance(error, MataError) else "Internal server error"
        self._failed[info.model] = info
        if len(self._failed) > FAILURES_KEPT:
            del self._failed[next(iter(self._failed))]

    async def _events(
        self, model: str, task: asyncio.Task[Sequence[str]], steps: asyncio.Queue[Step | None]
    ) -> AsyncGenerator[bytes]:
        """Yield the events of a pull, without pip's output, which may contain hosts and paths."""
        while (step := await steps.get()) is not None:
            if isinstance(step, QueuePosition):
                yield events.event("waiting", {"place": step.place})
            elif isinstance(step, Progress):
                yield events.event("progress", msgspec.structs.asdict(step))
        yield LastEvent(events.event("result", _status(model, await self._result(model, task))))

    async def _result(self, model: str, task: asyncio.Task[Sequence[str]]) -> Sequence[str]:
        """Wait for a pull without cancelling it if the caller is cancelled; return its warnings."""
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if not task.cancelled():
                raise
            if self._stopping.is_set():
                raise Unavailable("The server is shutting down", retry_after=5) from None
            raise Conflict(f"The pull of {model} was cancelled") from None


def _status(model: str, warnings: Sequence[str]) -> PullStatus:
    return PullStatus("pulled", model, list(warnings) or UNSET)
