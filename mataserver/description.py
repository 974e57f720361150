"""What the API tells of a registered model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import UNSET

from mataserver import weights
from mataserver.results import ModelInfo

if TYPE_CHECKING:
    from mataserver.registry import Entry
    from mataserver.slots import Status


def info(name: str, entry: Entry, status: Status) -> ModelInfo:
    """Return the item of the list."""
    size = weights.size(name, entry)
    return ModelInfo(
        model=name,
        task=entry.task,
        source=entry.source,
        state=status.state,
        size_mb=None if size is None else round(size / 1e6, 1),
        memory_mb=None if status.memory is None else round(status.memory / 1e6, 1),
        loaded_at=status.loaded_at,
        last_used=status.last_used,
        error=UNSET if status.error is None else status.error,
    )
