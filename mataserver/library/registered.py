"""The registered models as a server sees them, tolerating a corrupt registry."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from mataserver.errors import NotFound
from mataserver.library import weights
from mataserver.library.registry import RegistryError
from mataserver.suggestion import similar

if TYPE_CHECKING:
    from mataserver.library.registry import Entry, Registry

log = logging.getLogger("mataserver.catalog")


class RegisteredModels:
    """The contents of a registry; if it is corrupt, the last good copy."""

    def __init__(self, registry: Registry) -> None:
        self.registry = registry
        self._logged_error = ""

    def entries(self) -> dict[str, Entry]:
        """Return the registered models; if the registry is corrupt, the last good copy."""
        try:
            return self.registry.entries()
        except RegistryError as error:
            if error.detail != self._logged_error:
                log.error("%s; serving what was read before", error.told)  # noqa: TRY400
                self._logged_error = error.detail
            return self.registry.last_good()

    def entry(self, name: str) -> Entry:
        """Return one registered model. Raises ``NotFound``, also if its files are gone."""
        entry = self.entries().get(name)
        if entry is None or not weights.are_present(name, entry):
            raise self.missing(name)
        return entry

    def missing(self, name: str) -> NotFound:
        """Return the error for a name that is not registered."""
        return NotFound(f"Model not found: {name[:200]}{similar(name, self.entries())}")
