"""Runs a program that is killed when its parent process ends, for whatever reason.

``python die_with_parent.py PROGRAM ...`` with a pipe as stdin: the end of stdin kills the program.
This file imports nothing of this package, so that it starts within a tenth of a second.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading

SIGNAL_BASE = 128
"""Added to the signal that ended the program, as in shells."""


def main() -> int:
    """Return the program's exit status."""
    with subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL) as process:  # noqa: S603 - the operator's
        threading.Thread(target=_watch, args=(process,), daemon=True).start()
        status = process.wait()
    return status if status >= 0 else SIGNAL_BASE - status


def _watch(process: subprocess.Popen[bytes]) -> None:
    while os.read(0, 4_096):  # not by sys.stdin, whose lock would be held at exit
        pass
    process.kill()


if __name__ == "__main__":
    sys.exit(main())
