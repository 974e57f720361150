"""State of a connection's frames: the waiting one, and those given to the model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from msgspec import Struct

if TYPE_CHECKING:
    from collections.abc import Callable

    from mataserver.engines.work import Outcome
    from mataserver.errors import MataError
    from mataserver.http.budget import BudgetShare


class StreamToken(Struct, tag_field="type", tag="token"):
    """A piece of the text that the model is making for a frame."""

    frame_id: int
    text: str


@dataclass(slots=True)
class Frame:
    """A received frame and its share of the budget of bytes in flight."""

    number: int
    image: bytes
    share: BudgetShare


@dataclass(slots=True, eq=False)
class PendingFrame:
    """A frame given to the model, and its result; with its picture if services need it."""

    number: int
    share: BudgetShare
    result: Outcome | MataError | None = None
    image: bytes = b""
    withdraw: Callable[[], None] | None = None
    """Cancels it, if it runs without a task."""

    def cancel(self) -> None:
        """Cancel it, and release its resources."""
        self.share.give_back()
        if self.withdraw is not None:
            self.withdraw()
            self.withdraw = None
