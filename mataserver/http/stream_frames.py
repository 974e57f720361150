"""What is known of the frames of a connection: one that waits, those that the model was given."""

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
class Taken:
    """A frame that the model was given, and what it found; its picture where services want it."""

    number: int
    share: BudgetShare
    found: Outcome | MataError | None = None
    image: bytes = b""
    withdraw: Callable[[], None] | None = None
    """What takes it back, where it is in no task."""

    def give_up(self) -> None:
        """Take it back, and give back what it holds."""
        self.share.give_back()
        if self.withdraw is not None:
            self.withdraw()
            self.withdraw = None
