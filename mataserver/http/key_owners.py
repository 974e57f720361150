"""Whose a secret is, as services tell that need nothing else of a request."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mataserver.principals import Principal

if TYPE_CHECKING:
    from collections.abc import Callable

    OwnerOf = Callable[[str], Principal | None]


class Owners:
    """Asks services at once, where ``authenticate`` would be awaited."""

    def __init__(self) -> None:
        self._asked: list[OwnerOf | None] = []

    def add(self, owner_of: OwnerOf | None) -> None:
        """Ask one more of those that authenticate; None for one that has to be awaited."""
        self._asked.append(owner_of)

    @property
    def decide(self) -> bool:
        """Whether any of them may tell."""
        return any(self._asked[:1])

    def of(self, secret: str) -> Principal | None:
        """Return whose a secret is now; that service counts a request by it.

        They are asked in their order, up to one that has to be awaited. None where that has to
        tell, where nobody knows the secret, and for whom more is to be asked: whose key does not
        count is told why by ``authenticate``, and whose requests can wait is to be noted.
        """
        for owner_of in self._asked:
            if owner_of is None:
                return None
            try:
                found: object = owner_of(secret)
            except Exception:  # noqa: BLE001 - ``authenticate`` raises it anew, and is heard
                return None
            if found is not None:
                return found if isinstance(found, Principal) and not found.background else None
        return None
