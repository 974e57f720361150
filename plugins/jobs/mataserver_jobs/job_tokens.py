"""How a job's process asks the server: a token of its own for each attempt, held in memory alone.

It may infer as the job's owner, is told on standard input, and counts no more when the attempt
ends or the server does.
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
        """Have an access count no more."""
        self._principals.pop(access.token, None)

    def principal(self, credentials: Credentials) -> Principal | None:
        """Return whose credentials are; None for what is no token of an attempt that runs."""
        return self._principals.get(credentials.secret)
