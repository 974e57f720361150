"""Failures of the operating system in the data or shared directory, as errors of the API."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from mataserver.config import PREFIX
from mataserver.errors import MataError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextlib.contextmanager
def os_errors_as(failure: str, path: Path, kind: type[MataError] = MataError) -> Iterator[None]:
    """Turn an ``OSError`` into ``kind``: ``failure`` and the system's reason, for clients too.

    The hint, which goes to the operator alone, names the path and the setting that leads there.
    """
    try:
        yield
    except OSError as error:
        reason = error.strerror or type(error).__name__
        setting = f"the setting data_dir, {PREFIX}DATA_DIR, or shared_dir where it is set"
        hint = f"{path}; {setting}, names the directory"
        raise kind(f"{failure}: {reason}", hint=hint) from error
