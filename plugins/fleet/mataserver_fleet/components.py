"""What the routes of the fleet stand on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mataserver import Unavailable
from mataserver_fleet.consumer_revocations import ConsumerRevocations
from mataserver_fleet.consumers import Consumers
from mataserver_fleet.store import ChangeSignal
from mataserver_fleet.tritons import Tritons
from mataserver_fleet.uploads import UploadStore

if TYPE_CHECKING:
    from collections.abc import Callable

    from mataserver_fleet.files import FileStore
    from mataserver_fleet.gateway.refused_keys import RefusedKeys
    from mataserver_fleet.options import Settings
    from mataserver_fleet.store import Store


class Components:
    """What the routes stand on, once the service is entered.

    serves:  whether this server or another mataserver has a model.
    refused: the keys that the gateway refuses before that is stored.
    """

    def __init__(
        self,
        files: FileStore,
        settings: Settings,
        serves: Callable[[str], bool],
        refused: RefusedKeys,
    ) -> None:
        self._store: Store | None = None
        self.files = files
        self.upload_store = UploadStore(files, settings)
        self.serves = serves
        self._refused = refused
        self.changes = ChangeSignal()

    def open(self, store: Store) -> None:
        """Begin to answer."""
        self._store = store

    @property
    def store(self) -> Store:
        """The tables. Raises ``Unavailable`` before the service is entered."""
        if self._store is None:
            raise Unavailable("The fleet is not open")
        return self._store

    @property
    def tritons(self) -> Tritons:
        """The Tritons."""
        return Tritons(self.store)

    @property
    def consumers(self) -> Consumers:
        """The consumers."""
        return Consumers(self.store)

    @property
    def revocations(self) -> ConsumerRevocations:
        """What takes consumers' keys away."""
        return ConsumerRevocations(self.store, self._refused)
