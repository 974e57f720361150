"""How long ``mataserver-accounts`` takes to tell who asks, with many keys in memory.

    python bench/authenticate.py [--keys 100000]

Prints microseconds per call, of the best round and of the median one: of a key, of a token, and of
what is neither. A round takes a few milliseconds, so that some of them are run in one piece also
where other programs want the processor. "Busy" keys are 1,000 that ask over and over, "any" is each
time another one, which no processor's cache holds. The goal is 5 µs.
"""

from __future__ import annotations

import argparse
import itertools
import os
import random
import secrets
import statistics
import time
from typing import TYPE_CHECKING

from mataserver_accounts.keys import KEY_PREFIX, digest
from mataserver_accounts.records import Key, User
from mataserver_accounts.snapshot import KeyRates, Snapshot
from mataserver_accounts.store import AccountData
from mataserver_accounts.tokens import Tokens

if TYPE_CHECKING:
    from collections.abc import Sequence

CALLS = 20_000
ROUND = 500
TURNS = 10
"""How often all calls are made, in rounds of so many."""


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
    everything = AccountData("1", [(user, 1) for user in users], keys, frozenset())
    return Snapshot(everything, tokens, KeyRates(time.time)), made


def rounds(known: Snapshot, asked: Sequence[str]) -> list[float]:
    """Return the microseconds of one call in each round."""
    found = []
    for _ in range(TURNS):
        for at in range(0, len(asked), ROUND):
            part = asked[at : at + ROUND]
            begun = time.perf_counter()
            for secret in part:
                known.owner_of(secret)
            found.append((time.perf_counter() - begun) / len(part) * 1e6)
    return found


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
        taken = rounds(known, given)
        print(
            f"{name:10} {min(taken):6.2f} µs, median {statistics.median(taken):6.2f} µs, "
            f"with {count} keys"
        )
    print(f"load average {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
