"""The models' interface for services and protocols; each use loads the model on demand."""

from __future__ import annotations

import contextlib
import secrets
from typing import TYPE_CHECKING, Any, cast

import msgspec

from mataserver.contract.handles import Encoded
from mataserver.engines.work import Job
from mataserver.errors import MataError
from mataserver.serving.frames import FrameSession, result_of

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable
    from contextlib import AbstractAsyncContextManager

    from mataserver.contract.envelope import Format
    from mataserver.engines.work import Outcome
    from mataserver.library.plans import ModelPlan
    from mataserver.metrics import Metrics
    from mataserver.params.table import Params
    from mataserver.serving.pool import ModelPool


class Handle:
    """A model that can be used. Methods raise subclasses of ``MataError``.

    The plan is looked up at each use, as the model may be registered anew. ``max_tokens`` is the
    server's ceiling, for services as for requests.
    """

    def __init__(
        self, pool: ModelPool, metrics: Metrics, max_tokens: int, plan: Callable[[], ModelPlan]
    ) -> None:
        self.pool = pool
        self.metrics = metrics
        self.plan = plan
        self._max_tokens = max_tokens

    @property
    def name(self) -> str:
        """The model's name."""
        return self.plan().spec.name

    @property
    def task(self) -> str:
        """The task that it is used for."""
        return self.plan().spec.task

    @property
    def params_type(self) -> type[Params]:
        """The struct of its parameters."""
        return self.plan().backend.params

    def hold(self) -> AbstractAsyncContextManager[None]:
        """Load the model if necessary, and keep it in memory until the context ends."""
        return self.pool.hold(self.plan())

    def params(self, given: Any = None, *, text: bool = False) -> Params:
        """Parse the parameters of an inference. Raises ``InvalidParams``.

        ``given`` is a mapping as in a request (with ``text``, as in a form or a query), or a struct
        of the backend. Missing values come from the model's configuration, then from the backend. A
        struct's types are checked by the worker.
        """
        return self.plan().params(given, self._max_tokens, text=text)

    async def predict(self, image: bytes, params: Any = None) -> Any:
        """Run the model on an encoded image; return its result struct."""
        plan = self.plan()
        job = self._job(plan, image, params, "msgpack")
        answer = _encoded(*await self.pool.infer(plan, job))
        return await result_of(answer.body, plan)

    async def answer(self, image: bytes, params: Any = None, form: Format = "json") -> Encoded:
        """Run the model on an encoded image; return the body, as the worker encoded it."""
        plan = self.plan()
        job = self._job(plan, image, params, form)
        return _encoded(*await self.pool.infer(plan, job))

    def begin(
        self,
        image: bytes,
        params: Any,
        form: Format,
        take: Callable[[Encoded | Exception], None],
    ) -> Callable[[], None] | None:
        """Start what ``answer`` does without a task; return None if the model is not ready.

        ``take`` is called later, once, with what ``answer`` returns or raises; for one of
        ``RETRIABLE`` the caller should retry with ``answer``. The body may be a memoryview that is
        valid only during that call. Returns a function that cancels the request. Raises
        ``InvalidParams``.
        """

        def on_outcome(answer: Outcome | MataError, waited: float) -> None:
            if isinstance(answer, MataError):
                take(answer)
                return
            found: Encoded | Exception
            try:
                found = _encoded(answer, waited, lent=True)
            except Exception as error:  # noqa: BLE001 - whatever it is, the caller gets an answer
                found = error
            take(found)
            answer.discard_body()

        plan = self.plan()
        return self.pool.begin(plan, self._job(plan, image, params, form), on_outcome)

    async def generate(self, image: bytes, params: Any = None) -> AsyncGenerator[Any]:
        """Yield the text pieces that the model produces, then its result.

        A model without streaming yields only its result. Closing the iterator stops the work.
        """
        plan = self.plan()  # the model's as it began: it may be removed while it writes
        job = self._job(plan, image, params, "msgpack")
        async with contextlib.aclosing(self.pool.generate(plan, job)) as items:
            async for item in items:
                yield item if isinstance(item, str) else await result_of(item.whole(), plan)

    async def generate_answer(
        self, image: bytes, params: Any = None, form: Format = "json"
    ) -> AsyncGenerator[str | Encoded]:
        """Yield the text pieces that the model produces, then the body that ``answer`` returns."""
        plan = self.plan()
        job = self._job(plan, image, params, form)
        async with contextlib.aclosing(self.pool.generate(plan, job)) as items:
            async for item in items:
                yield item if isinstance(item, str) else _encoded(item, 0.0)

    @contextlib.asynccontextmanager
    async def session(self, params: Any = None) -> AsyncIterator[FrameSession]:
        """Hold the model and its state between frames until the context ends."""
        session = FrameSession(self, self.params(params), "own_" + secrets.token_hex(6))
        async with self.hold():
            try:
                yield session
            finally:
                await session.discard_state()

    async def call(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """Call a public method of the model, which must be held."""
        with self.pool.lease_worker(self.plan()) as worker:
            return await worker.call(method, args, kwargs)

    async def stream(self, method: str, *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        """Yield the items of a public generator method; closing the iterator stops the work."""
        with self.pool.lease_worker(self.plan()) as worker:
            async with contextlib.aclosing(worker.stream(method, args, kwargs)) as items:
                async for item in items:
                    yield item

    def _job(self, plan: ModelPlan, image: bytes, given: Any, form: Format) -> Job:
        params = plan.params(given, self._max_tokens)
        return Job(image, msgspec.msgpack.encode(params), form)


def _encoded(outcome: Outcome, waited: float, *, lent: bool = False) -> Encoded:
    """Return an outcome as an answer, whose body may be a view if ``lent``. Raises its failure."""
    body = cast("bytes", outcome.lent()) if lent else outcome.whole()
    timing = outcome.timing
    return Encoded(body, timing.decode, waited, timing.infer, timing.encode)
