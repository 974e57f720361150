"""Resolution of secrets to principals by services, synchronously by those that support it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mataserver.plugin_ends import ends_as_errors
from mataserver.principals import Principal

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from mataserver.principals import Credentials

    Authenticate = Callable[[Credentials], Awaitable[Principal | None]]
    OwnerOf = Callable[[str], Principal | None]


class KeyOwners:
    """Calls services synchronously, in place of the awaited ``authenticate``."""

    def __init__(self) -> None:
        self._resolvers: list[OwnerOf | None] = []

    def add(self, owner_of: OwnerOf | None) -> None:
        """Add an authenticating service; None for one that must be awaited."""
        self._resolvers.append(owner_of)

    @property
    def can_decide(self) -> bool:
        """Whether any of them can decide."""
        return any(self._resolvers[:1])

    def find(self, secret: str) -> Principal | None:
        """Return the current owner of a secret; its service counts that as a request.

        Services are called in order, up to one that must be awaited. Returns None if that one must
        decide, if the secret is unknown, and if more is needed: ``authenticate`` reports why a key
        is invalid, and background priority must be recorded.
        """
        for owner_of in self._resolvers:
            if owner_of is None:
                return None
            try:
                found: object = owner_of(secret)
            except BaseException:  # noqa: BLE001 - raised again, and reported, by ``authenticate``
                return None
            if found is not None:
                return found if isinstance(found, Principal) and not found.background else None
        return None


async def ask(authenticate: Authenticate, credentials: Credentials) -> Principal | None:
    """Return whom a service takes the credentials for. Raises ``TypeError`` for anything else."""
    with ends_as_errors():  # it may be a call of gRPC's that asks
        given: object = await authenticate(credentials)
    if given is None or isinstance(given, Principal):
        return given
    name = getattr(authenticate, "__qualname__", "authenticate")
    raise TypeError(f"{name}() gave {type(given).__name__}, not a Principal")
