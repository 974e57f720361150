"""The conversion child: a module for ``run_process``.

A pickled ``Job`` comes in on its standard input. Its exit status says whether the job is done; if
it is refused, the client's sentence is its standard output.
"""

from __future__ import annotations

import pickle
import sys
import traceback
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mataserver.errors import MataError
from mataserver.spawned import take_output

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from mataserver.contract import ModelSpec

DONE, FAILED, REFUSED = 0, 1, 2
"""Exit statuses."""


@dataclass(frozen=True, slots=True)
class Job:
    """One conversion: ``make(spec, directory, settings)``."""

    make: Callable[[ModelSpec, Path, Any], None]
    spec: ModelSpec
    directory: Path
    settings: Any


def _run() -> tuple[int, str]:
    """Do the job; return the exit status and the sentence."""
    try:
        # From the process that started this one, and nobody else.
        job: Job = pickle.load(sys.stdin.buffer)  # noqa: S301
        job.make(job.spec, job.directory, job.settings)
    except MataError as error:
        return REFUSED, error.detail
    except Exception:  # noqa: BLE001 - the worker's edge: the parent logs the traceback
        traceback.print_exc()
        return FAILED, ""
    return DONE, ""


def main() -> None:
    """Do one job and end."""
    with take_output() as answer:
        status, sentence = _run()
        answer.write(sentence.encode())
    sys.exit(status)
