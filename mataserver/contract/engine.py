"""The engine side of the contract: ``EngineSpec``, and what an engine is made from.

An engine starts the workers of models: in a process, in a thread, on another machine. The server's
own engines and those of plugins are declared in the same way.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import logging
    from collections.abc import Callable, Mapping
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class EngineContext:
    """What an engine is made from.

    settings: the plugin's own; None if it declares none.
    options:  the server's settings whose names begin with the engine's, without that beginning:
              ``room`` is ``ray_room`` of the engine ``ray``.
    data_dir: the server's data directory.
    log:      a logger of its own.
    process:  returns the server's engine ``process``, which starts workers on this machine. An
              engine may build on it; the server closes it.
    """

    settings: Any
    options: Mapping[str, Any]
    data_dir: Path
    log: logging.Logger
    process: Callable[[], Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSpec:
    """An engine, as data.

    name:     unique; what ``engine:`` in the configuration says.
    make:     returns the ``Engine``. Called once, when the engine is first needed: at the start if
              the configuration names it. Raises a ``MataError`` if it cannot be used: the server
              then does not start.
    requires: modules that it needs, which are looked for without importing them.
    packages: what ``pip install`` needs to provide them.
    """

    name: str
    make: Callable[[EngineContext], Any]
    requires: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()
