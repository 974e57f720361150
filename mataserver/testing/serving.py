"""A server in the process of a test."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mataserver import config
from mataserver import plugins as plugin_host
from mataserver.app import composition as app
from mataserver.app import running
from mataserver.testing.fakes import FAKE

if TYPE_CHECKING:
    import importlib.metadata
    from collections.abc import AsyncIterator, Mapping, Sequence

    from mataserver.app.maintenance import MaintenanceIntervals
    from mataserver.app.server import ComposedServer
    from mataserver.engines.work import Engine

KEY = "test-key"
DEFAULTS: dict[str, Any] = {}
"""Settings of servers whose tests state none for these."""


@dataclass(frozen=True, slots=True)
class Served:
    """A server running in this process."""

    url: str
    key: str
    composed: ComposedServer

    @property
    def headers(self) -> dict[str, str]:
        """The header with the key."""
        return {"Authorization": f"Bearer {self.key}"}

    def service(self, name: str) -> Any:
        """Return the service of a plugin. Raises ``NotFound`` if it is not in use."""
        return self.composed.hosting.peer(name)


def compose(
    data_dir: str | Path,
    entry_points: Sequence[importlib.metadata.EntryPoint],
    probe: Any = None,
    pace: MaintenanceIntervals | None = None,
    engines: Mapping[str, Engine] | None = None,
    **settings: Any,
) -> tuple[ComposedServer, str]:
    """Compose a server without listening; return it and its key."""
    data_dir = Path(data_dir)
    values = {"port": 0, "api_keys": [KEY], "data_dir": str(data_dir), **DEFAULTS, **settings}
    chosen, set_by = config.read(environ={}, directory=data_dir, **values)
    found = plugin_host.discover(chosen, entry_points, config.dotenv(data_dir))
    composed = app.build(chosen, found, probe, pace, set_by, engines, environ={})
    return composed, (chosen.keys or ("",))[0]


@contextlib.asynccontextmanager
async def serving(
    data_dir: str | Path,
    *,
    entry_points: Sequence[importlib.metadata.EntryPoint] = (FAKE,),
    probe: Any = None,
    pace: MaintenanceIntervals | None = None,
    engines: Mapping[str, Engine] | None = None,
    **settings: Any,
) -> AsyncIterator[Served]:
    """Run a server on a free loopback port until the context ends.

    ``settings`` are those of the configuration. Only the plugins of ``entry_points`` are loaded.
    ``probe`` replaces the machine's memory probe, ``pace`` the intervals of background work,
    ``engines`` the server's own engines, by name.
    """
    composed, key = compose(data_dir, entry_points, probe, pace, engines, **settings)
    runner = running.make_runner(composed)
    await runner.setup()
    try:
        port = await running.listen(runner, composed, "127.0.0.1", 0)
        yield Served(f"http://127.0.0.1:{port}", key, composed)
    finally:
        await running.stop(runner, composed)
