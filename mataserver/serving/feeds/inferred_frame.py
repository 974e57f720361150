"""A camera's frame with its result: encoded for viewers, or drawn as a picture."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from mataserver.engines.decoding import decode_result, to_json
from mataserver.engines.work import Timing
from mataserver.results import TASKS, decode

if TYPE_CHECKING:
    from collections.abc import Callable

    from mataserver.contract.envelope import Format
    from mataserver.engines.worker_errors import Failure


@dataclass(slots=True, eq=False)
class InferredFrame:
    """One frame with its result, or with its failure.

    ``number`` counts the session's frames from 0, ``dropped`` those skipped before this one.
    ``body`` is the answer as MessagePack. ``at`` is its time of arrival, on the loop's clock.
    """

    number: int
    dropped: int
    jpeg: bytes
    at: float
    body: bytes = b""
    timing: Timing = field(default_factory=Timing)
    failure: Failure | None = None
    reset: bool = False
    _computed: dict[str, asyncio.Task[Any]] = field(default_factory=dict)

    async def encoded(self, form: Format) -> bytes:
        """Return the answer in a format; JSON is converted once for all viewers."""
        if form == "msgpack":
            return self.body
        found: bytes = await self._compute_once("json", partial(to_json, self.body))
        return found

    async def picture(self, task: str) -> bytes:
        """Return the frame as a JPEG with its result drawn in; drawn once for all callers.

        Raises a ``MataError`` if the frame has no result.
        """
        if self.failure is not None:
            raise self.failure.error()
        drawn: bytes = await self._compute_once(
            "picture", partial(_draw, self.jpeg, self.body, task)
        )
        return drawn

    async def _compute_once(self, name: str, make: Callable[[], Any]) -> Any:
        """Compute a value once, in a thread; a cancelled caller does not cancel it for others."""
        if name not in self._computed:
            loop = asyncio.get_running_loop()
            self._computed[name] = loop.create_task(asyncio.to_thread(make))
        return await asyncio.shield(self._computed[name])


def _draw(jpeg: bytes, body: bytes, task: str) -> bytes:
    # Imports numpy and Pillow, which a server that never draws does not need.
    from mataserver.media.drawing import draw, result_of

    found = decode_result(body, task) if task in TASKS else result_of(decode(body, msgpack=True))
    return draw(jpeg, found)
