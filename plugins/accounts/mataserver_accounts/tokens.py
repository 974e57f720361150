"""Tokens of users: JSON Web Tokens (RFC 7519), signed with HS256 and short-lived."""

from __future__ import annotations

import time
import uuid
from typing import TYPE_CHECKING

from msgspec import Struct

if TYPE_CHECKING:
    from collections.abc import Callable

    from jwt.types import Options

ALGORITHM = "HS256"
AUDIENCE = "mataserver"
MOST = 10_000
"""Tokens that are remembered as verified."""


_OPTIONS: Options = {
    "require": ["sub", "gen", "jti", "exp", "aud"],
    "verify_exp": False,  # by our own clock, below
    "verify_iat": False,
}


class Claims(Struct, frozen=True):
    """What a token says: whose it is, of which generation of their password, and for how long."""

    id: str
    user: str
    generation: int
    until: float


class Tokens:
    """Makes and reads tokens. ``clock`` gives Unix seconds."""

    def __init__(self, secret: str, seconds: int, clock: Callable[[], float] = time.time) -> None:
        self._secret = secret
        self.seconds = seconds
        self._clock = clock
        self._verified: dict[str, Claims] = {}

    def make(self, user: str, generation: int) -> str:
        """Return a token for a user's id."""
        import jwt

        now = self._clock()
        claims = {
            "sub": user,
            "gen": generation,
            "aud": AUDIENCE,
            "jti": str(uuid.uuid4()),
            "iat": int(now),
            "exp": now + self.seconds,
        }
        return jwt.encode(claims, self._secret, ALGORITHM)

    def read(self, token: str) -> Claims | None:
        """Return what a token of ours says, or None for one that is forged, over or another's.

        Verifying takes many times as long as all the rest: a token is verified once.
        """
        claims = self._verified.get(token) or self._verify(token)
        return claims if claims is not None and claims.until > self._clock() else None

    def _verify(self, token: str) -> Claims | None:
        import jwt  # for the first token: most servers start without one

        try:
            found = jwt.decode(
                token, self._secret, [ALGORITHM], audience=AUDIENCE, options=_OPTIONS
            )
            claims = Claims(found["jti"], found["sub"], int(found["gen"]), float(found["exp"]))
        except (jwt.InvalidTokenError, ValueError, TypeError):
            return None
        if len(self._verified) >= MOST:
            del self._verified[next(iter(self._verified))]
        self._verified[token] = claims
        return claims


def looks_like_token(secret: str) -> bool:
    """Whether a secret has the form of a JSON Web Token: three parts, the first an object."""
    return secret.count(".") == 2 and secret.startswith("eyJ")
