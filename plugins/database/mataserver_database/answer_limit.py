"""How long an answer of PostgreSQL is waited for: it may hang, or the way to it end in silence.

The server's own ``statement_timeout`` is of no use then: no word of it arrives. Without a limit
here a request would wait for ever, and with it every later one that needs the same connection.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import sqlalchemy as sa

ANSWER_SECONDS = "mataserver_answer_seconds"
"""The option of an engine on a server: seconds that an answer may take."""
SLACK_SECONDS = 5.0
"""How much longer than a statement may take, by the server's own limit, its answer may."""
PING_SECONDS = 3.0
"""How long the answer to the pool's question is waited for, whether a connection is still there.

It takes the server no work, and behind it there is another connection to be had.
"""


@contextlib.contextmanager
def answer_limit(driver: Any, seconds: float | None) -> Iterator[None]:
    """Cut a driver's connection that is not done within so many seconds; None: never.

    Whoever waits for it is told at once that it is lost.
    """
    if seconds is None:
        yield
        return
    timer = asyncio.get_running_loop().call_later(seconds, driver.terminate)
    try:
        yield
    finally:
        timer.cancel()


def limit_pool(engine: sa.Engine, seconds: float) -> None:
    """Have what an engine's pool asks by itself answered within so many seconds, or fail."""
    dialect: Any = engine.dialect  # its pool asks by itself, with nobody here between
    dialect.do_ping = _limited(dialect.do_ping, min(PING_SECONDS, seconds))
    dialect.do_close = _limited(dialect.do_close, seconds)
    dialect.do_rollback = _limited(dialect.do_rollback, seconds)
    initialize = dialect.initialize

    def initialize_in_time(connection: sa.Connection) -> None:
        """Ask what the server is, of the first connection of all."""
        with answer_limit(connection.connection.driver_connection, seconds):
            initialize(connection)

    dialect.initialize = initialize_in_time


def _limited(method: Callable[[Any], Any], seconds: float) -> Callable[[Any], Any]:
    def limited(connection: Any) -> Any:
        with answer_limit(connection.driver_connection, seconds):
            return method(connection)

    return limited
