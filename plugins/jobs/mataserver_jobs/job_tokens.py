"""How a job's process asks the server: a token of its own for each attempt, held in memory alone.

It may infer as the job's owner, is passed on standard input, and is invalid after the attempt or
the server has ended.
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

from mataserver import Principal
from mataserver_jobs.kinds import Access

if TYPE_CHECKING:
    from mataserver import Credentials
    from mataserver_jobs.record import Record

PREFIX = "job_"
SCOPES = frozenset({"infer"})


class JobTokens:
    """The tokens of the attempts that run. ``url`` is where the server is asked."""

    def __init__(self, url: str = "") -> None:
        self.url = url
        self._principals: dict[str, Principal] = {}

    def mint(self, record: Record) -> Access:
        """Return the access of one attempt of a job."""
        token = PREFIX + secrets.token_urlsafe(32)
        self._principals[token] = Principal(
            record.owner, f"job {record.id}", "job", SCOPES, background=True
        )
        return Access(self.url, token)

    def revoke(self, access: Access) -> None:
        """Revoke an access."""
        self._principals.pop(access.token, None)

    def principal(self, credentials: Credentials) -> Principal | None:
        """Return the principal of a running attempt's token; None for other credentials."""
        return self._principals.get(credentials.secret)
