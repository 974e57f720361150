"""Runs a program that ends with whoever began it, whatever ends that one.

``python leash.py PROGRAM ...`` with a pipe as stdin: at its end, the program is killed. A file of
its own that imports nothing of this package: it begins within a tenth of a second.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading

SIGNALLED = 128
"""What is added to the signal that ended the program, as shells do."""


def main() -> int:
    """Return the program's exit status."""
    with subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL) as process:  # noqa: S603 - the operator's
        threading.Thread(target=_watch, args=(process,), daemon=True).start()
        status = process.wait()
    return status if status >= 0 else SIGNALLED - status


def _watch(process: subprocess.Popen[bytes]) -> None:
    while os.read(0, 4_096):  # not by sys.stdin, whose lock would be held when all ends
        pass
    process.kill()


if __name__ == "__main__":
    sys.exit(main())
