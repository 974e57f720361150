"""The source side of the contract: ``SourceSpec``, and what its function gets.

A source is where models come from. The hub, packages and local paths are the server's own; a plugin
adds others: a file share, an object store, a registry of artifacts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SOURCE_NAME = r"^[a-z][a-z0-9_]{0,31}\Z"
MAX_STALL_TIMEOUT = 3600.0
"""Maximum seconds that a source may declare, so that hangs are detected."""


def _ignore(*_announced: int) -> None:
    """Do nothing: no server watches."""


@dataclass(frozen=True, slots=True)
class SourceContext:
    """What ``SourceSpec.fetch`` gets, in a child process of its own.

    reference: which model: what follows the source's name and a colon.
    folder:    an empty directory for the model's files. They are served only once ``fetch`` has
               returned and the server has checked them; until then they are removed if it fails.
    settings:  the plugin's settings; None if it declares none.
    expect:    ``expect(total_bytes, files)`` announces what will arrive, for the progress. Raises
               if the disk has no room for it.
    alive:     tells that work goes on while no file grows, such as a comparison of checksums.
    """

    reference: str
    folder: Path
    settings: Any = None
    expect: Callable[..., None] = _ignore
    alive: Callable[[], None] = _ignore


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceSpec:
    """A source of models, as data. Users pull ``NAME:REFERENCE``.

    name:     unique; what stands before the colon.
    fetch:    a module-level function ``fetch(ctx)`` that stores the model's files in
              ``ctx.folder``. It runs in a child process, and is where to import a client library.
              Returns the name of the file to serve, or None for the whole folder. Raises a
              ``MataError`` with the reason that users read; ``Unavailable``, ``ConnectionError`` or
              ``TimeoutError`` if the source cannot be reached: an earlier copy is then used.
    example:  a reference, for the message about a wrong one.
    pattern:  a regular expression that references match as a whole.
    requires: modules that it needs, which are looked for without importing them.
    packages: what ``pip install`` needs to provide them.
    inherit:  variables of the server's environment that the child gets beside the usual ones, such
              as credentials: names, or patterns such as ``AWS_*``.
    stall_timeout: seconds without progress after which a pull fails.
    """

    name: str
    fetch: Callable[[SourceContext], str | None]
    example: str = "folder/model"
    pattern: str = r"[^/].*"
    requires: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()
    inherit: tuple[str, ...] = ()
    stall_timeout: float = 60.0
