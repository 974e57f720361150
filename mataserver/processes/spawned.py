"""The child's side of ``mataserver.processes.child``: what runs before, around and as its target.

``python -m mataserver.processes.spawned PARENT NICE CONFINED PATH KIND TARGET …`` dies with its
parent, steps back behind those who serve, and runs the target: a module, a function, or a program.
It imports little: some children live for a moment only.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from typing import TYPE_CHECKING, Any, BinaryIO, Self

import msgspec

from mataserver.processes import kernel, landlock, seccomp

if TYPE_CHECKING:
    from collections.abc import Iterator


class Parent:
    """The server, as a child's function sees it."""

    def __init__(self, incoming: BinaryIO, outgoing: BinaryIO, arguments: list[str]) -> None:
        self._incoming = incoming
        self._outgoing = outgoing
        self.arguments = arguments

    def send(self, message: object, data: bytes = b"") -> None:
        """Send a message, and behind it bytes of which it tells how many there are."""
        self._outgoing.write(msgspec.json.encode(message) + b"\n")
        self._outgoing.write(data)
        self._outgoing.flush()

    def messages(self, kind: Any) -> Iterator[Any]:
        """Yield the server's messages until it sends no more."""
        decoder = msgspec.json.Decoder(kind)
        while line := self._incoming.readline():
            yield decoder.decode(line)

    def read(self, size: int) -> bytes:
        """Wait for as many bytes that are no message; fewer where the server sends no more."""
        return self._incoming.read(size)

    def change_nothing(self) -> None:
        """Change no file from now on, in this thread and those that it starts.

        For what decodes a stranger's data, before it does. A kernel without Landlock does not
        hold it to that.
        """
        landlock.change_nothing()

    @classmethod
    def on_pipes(cls, arguments: list[str]) -> Self:
        """Take standard input and output; what a library prints then goes to standard error."""
        return cls(sys.stdin.buffer, take_output(), arguments)


def take_output() -> BinaryIO:
    """Return standard output for messages alone: what a library prints goes to standard error."""
    outgoing = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    return outgoing


def _step_back(nice: int) -> None:
    """Let models that are being served go first, for the processor and when memory runs out."""
    with contextlib.suppress(OSError):  # a sandbox may forbid it
        os.nice(nice)
    kernel.be_killed_first(1000)


def main() -> None:
    """Run the target of the command line."""
    parent, nice, confined, path, kind, name, *arguments = sys.argv[1:]
    kernel.die_with(int(parent))
    kernel.give_up_privileges()
    if int(confined):
        seccomp.restrict()
    if int(nice):
        _step_back(int(nice))
    if kind == "program":
        # The server's path was for this module: another Python must not find its packages.
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
