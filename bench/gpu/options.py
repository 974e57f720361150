"""What every part is asked: on which device, and whether only to try the suite itself."""

from __future__ import annotations

import argparse
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mataserver import LoadContext

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True)
class Options:
    """``device`` is "cuda" or "cpu", and of equality also "simulated"; ``quick`` is for a try."""

    device: str
    quick: bool


def read() -> Options:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--quick", action="store_true")
    return Options(**vars(parser.parse_args()))


def context(
    folder: Path, device: str, dtype: str, settings: Any = None, **more: Any
) -> LoadContext:
    """Return what the server hands to ``load``; ``more`` are further fields of it."""
    return LoadContext(
        settings=settings,
        device=device,
        dtype=dtype,
        threads=0,
        data_dir=folder,
        log=logging.getLogger("gpu"),
        **more,
    )
