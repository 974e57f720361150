"""One connection to a source that a service gives: pictures as they come from its generator."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mataserver.contract.sessions import SourceFrame
from mataserver.errors import MataError
from mataserver.serving.feeds.feed import Lost

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable


class Drawn:
    """Draws each frame from a generator when it is asked for."""

    def __init__(self, frames: AsyncGenerator[bytes | SourceFrame]) -> None:
        self._frames = frames

    @classmethod
    async def start(cls, frames: Callable[[], AsyncGenerator[bytes | SourceFrame]]) -> Drawn:
        """Open the source."""
        return cls(frames())

    async def frame(self) -> SourceFrame:
        """Return the next frame. Raises ``Lost`` when there is none, with what may be told."""
        try:
            found = await anext(self._frames)
        except StopAsyncIteration:
            raise Lost("it has ended") from None
        except MataError as error:
            raise Lost(error.detail) from None
        except Exception as error:
            raise Lost("it has failed") from error
        return found if isinstance(found, SourceFrame) else SourceFrame(found)

    async def close(self) -> None:
        """Close the source."""
        await self._frames.aclose()
