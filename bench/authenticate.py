"""How long ``mataserver-accounts`` takes to tell who asks, with many keys in memory.

    python bench/authenticate.py [--keys 100000]

Prints microseconds per call, the best of several rounds: of a key, of a token, and of what is
neither. "Busy" keys are 1,000 that ask over and over, "any" is each time another one, which no
processor's cache holds. The goal is 5 µs.
"""

from __future__ import annotations

import argparse
import itertools
import random
import secrets
import time
from typing import TYPE_CHECKING

from mataserver import Credentials
from mataserver_accounts.records import Key, User
from mataserver_accounts.snapshot import Snapshot
from mataserver_accounts.store import KEY_PREFIX, Everything, digest
from mataserver_accounts.tokens import Tokens

if TYPE_CHECKING:
    from collections.abc import Sequence

CALLS = 20_000
ROUNDS = 25


def snapshot(count: int, tokens: Tokens) -> tuple[Snapshot, list[str]]:
    """Return what is known of ``count`` keys of 1,000 users, and the keys."""
    users = [
        User(id=f"user-{n}", name=f"user{n}", role="developer", created_at=0.0)
        for n in range(1_000)
    ]
    made = [KEY_PREFIX + secrets.token_urlsafe(32) for _ in range(count)]
    keys = [
        (
            digest(secret),
            Key(id=str(n), name="k", owner=user.id, scopes=["infer"], created_at=0.0),
        )
        for n, (secret, user) in enumerate(zip(made, itertools.cycle(users), strict=False))
    ]
    everything = Everything("1", [(user, 1) for user in users], keys, frozenset())
    return Snapshot(everything, tokens), made


def best(known: Snapshot, asked: Sequence[Credentials]) -> float:
    """Return the microseconds of one call in the best round."""
    rounds = []
    for _ in range(ROUNDS):
        begun = time.perf_counter()
        for credentials in asked:
            known.authenticate(credentials)
        rounds.append((time.perf_counter() - begun) / len(asked) * 1e6)
    return min(rounds)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keys", type=int, default=100_000)
    count = parser.parse_args().keys
    tokens = Tokens(secrets.token_urlsafe(32), 900)
    known, made = snapshot(count, tokens)
    cases = {
        "any key": random.choices(made, k=CALLS),
        "busy key": made[:1_000] * (CALLS // 1_000),
        "token": [tokens.make(f"user-{n}", 1) for n in range(1_000)] * (CALLS // 1_000),
        "another's": [secrets.token_urlsafe(32) for _ in range(CALLS)],
    }
    for name, given in cases.items():
        asked = [Credentials("bearer", each) for each in given]
        print(f"{name:10} {best(known, asked):6.2f} µs with {count} keys")


if __name__ == "__main__":
    main()
