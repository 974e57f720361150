"""The child's side of ``mataserver.processes.child``: setup, then the target itself.

``python -m mataserver.processes.child_main PARENT NICE CONFINED PATH KIND TARGET …`` dies with its
parent, lowers its priority, and runs the target: a module, a function, or a program. It has
few imports: some children are short-lived.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
import threading
from typing import TYPE_CHECKING, Any, BinaryIO, Self

import msgspec

from mataserver.processes import kernel, landlock, seccomp

if TYPE_CHECKING:
    from collections.abc import Iterator


class Parent:
    """The server, as seen by a child's function."""

    def __init__(self, incoming: BinaryIO, outgoing: BinaryIO, arguments: list[str]) -> None:
        self._incoming = incoming
        self._outgoing = outgoing
        self._lock = threading.Lock()
        self.arguments = arguments

    def send(self, message: object, data: bytes = b"") -> None:
        """Send a message, followed by bytes whose number the message states; from any thread."""
        with self._lock:
            self._outgoing.write(msgspec.json.encode(message) + b"\n")
            self._outgoing.write(data)
            self._outgoing.flush()

    def messages(self, kind: Any) -> Iterator[Any]:
        """Yield the server's messages until it closes the pipe."""
        decoder = msgspec.json.Decoder(kind)
        while line := self._incoming.readline():
            yield decoder.decode(line)

    def read(self, size: int) -> bytes:
        """Read exactly ``size`` raw bytes; fewer only at the end of the stream."""
        return self._incoming.read(size)

    def change_nothing(self) -> None:
        """Deny writing to files from now on, for this thread and those that it starts.

        Call it before decoding untrusted data. Not enforced by a kernel without Landlock.
        """
        landlock.make_read_only()

    @classmethod
    def on_pipes(cls, arguments: list[str]) -> Self:
        """Use standard input and output; redirect libraries' output to standard error."""
        outgoing = os.fdopen(os.dup(1), "wb")
        os.dup2(2, 1)
        return cls(sys.stdin.buffer, outgoing, arguments)


def _lower_priority(nice: int) -> None:
    """Lower the process's CPU and OOM priority below served models."""
    with contextlib.suppress(OSError):  # a sandbox may forbid it
        os.nice(nice)
    kernel.set_oom_score(1000)


def main() -> None:
    """Run the target of the command line."""
    parent, nice, confined, path, kind, name, *arguments = sys.argv[1:]
    kernel.die_with_parent(int(parent))
    kernel.set_no_new_privileges()
    if int(confined):
        seccomp.restrict()
    if int(nice):
        _lower_priority(int(nice))
    if kind == "program":
        # The server's path was for this module: another Python must not import from it.
        os.environ.pop("PYTHONPATH", None)
        if path:
            os.environ["PYTHONPATH"] = path
        os.execvp(name, [name, *arguments])  # noqa: S606 - no shell, the server's own arguments
    if kind == "module":
        sys.argv = [name, *arguments]
        importlib.import_module(name).main()
        return
    module, _, function = name.partition(":")
    getattr(importlib.import_module(module), function)(Parent.on_pipes(arguments))


if __name__ == "__main__":
    main()
