"""What the handlers need of the service, once it is entered."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from mataserver_reconstruct.chronicle import Chronicle
    from mataserver_reconstruct.history import History
    from mataserver_reconstruct.retraining import Retraining


class Served(Protocol):
    """The parts that stand on the database."""

    chronicle: Chronicle
    history: History
    retraining: Retraining
