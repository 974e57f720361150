"""The conversion child: ``python -m mataserver.conversions.child PARENT``.

A pickled ``Job`` comes in on its standard input. Its exit status says whether the job is done; if
it is refused, the client's sentence is its standard output. When its parent dies, so does it.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mataserver.errors import MataError
from mataserver.kernel import die_with, give_up_privileges

if TYPE_CHECKING:
    from collections.abc import Callable

    from mataserver.contract import ModelSpec

DONE, FAILED, REFUSED = 0, 1, 2
"""Exit statuses."""

_NICE = 10


@dataclass(frozen=True, slots=True)
class Job:
    """One conversion: ``make(spec, directory, settings)``."""

    make: Callable[[ModelSpec, Path, Any], None]
    spec: ModelSpec
    directory: Path
    settings: Any


def _step_back() -> None:
    """Let models that are being served go first, for the processor and when memory runs out."""
    with contextlib.suppress(OSError):  # a sandbox may forbid it
        os.nice(_NICE)
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")


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
    die_with(int(sys.argv[1]))
    give_up_privileges()
    # Standard output is ours alone: whatever a library prints goes to standard error.
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as answer:
        os.dup2(2, 1)
        _step_back()
        status, sentence = _run()
        answer.write(sentence)
    sys.exit(status)


if __name__ == "__main__":
    main()
