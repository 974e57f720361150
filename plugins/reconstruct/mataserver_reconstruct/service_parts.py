"""The parts of the service that the handlers use."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from mataserver_reconstruct.drift_recorder import DriftRecorder
    from mataserver_reconstruct.history import History
    from mataserver_reconstruct.retraining import Retraining


class ServiceParts(Protocol):
    """The parts that need the database, available once the service is entered."""

    recorder: DriftRecorder
    history: History
    retraining: Retraining
