"""A thousand log-ins at once, right and wrong: they are bounded, and hold up nothing else."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter

import aiohttp
import pytest
from argon2 import PasswordHasher

from mataserver_accounts.login_delays import client_network
from mataserver_accounts.passwords import THREADS, Passwords

pytestmark = pytest.mark.long

MANY, ADDRESSES = 1_000, 8


class Counting:
    """A hasher that notes how many of its callers are in it at a time."""

    def __init__(self):
        self.now = self.most = self.calls = 0
        self._lock = threading.Lock()

    def hash(self, password):
        return f"$argon2id${password}"

    def verify(self, known, password):
        with self._lock:
            self.now += 1
            self.calls += 1
            self.most = max(self.most, self.now)
        time.sleep(0.0005)
        with self._lock:
            self.now -= 1
        return known == self.hash(password)


class Noting(PasswordHasher):
    """A hasher that notes what it is asked, in order."""

    def __init__(self):
        super().__init__(time_cost=1, memory_cost=8, parallelism=1)
        self.asked = []

    def hash(self, password):
        self.asked.append("hash")
        return super().hash(password)

    def verify(self, known, password):
        self.asked.append("verify")
        return super().verify(known, password)


@pytest.mark.parametrize("exists", [True, False])
async def test_a_start_hashes_nothing_and_the_first_check_tells_nothing(exists):
    """The hash for users who do not exist is made by the first check, whoever logs in."""
    hasher = Noting()
    known = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1).hash("right")
    passwords = Passwords(hasher)
    assert hasher.asked == []
    assert await passwords.matches("right", known if exists else None) is exists
    assert hasher.asked == ["hash", "verify"]
    assert not await passwords.matches("", None)
    assert hasher.asked == ["hash", "verify", "verify"]


async def test_few_passwords_are_hashed_at_a_time():
    """However many wait, two are hashed at a time: each takes 19 MiB and a core."""
    hasher = Counting()
    passwords = Passwords(hasher)
    known = passwords._hasher.hash("right")
    asked = [passwords.matches("right" if n % 2 else "wrong", known) for n in range(MANY)]
    assert sum(await asyncio.gather(*asked)) == MANY // 2
    assert (hasher.calls, hasher.most) == (MANY, THREADS)


async def flood(server, said):
    """Log in from several addresses, rightly and wrongly; what was answered goes to ``said``."""
    connectors = [
        aiohttp.TCPConnector(local_addr=(f"127.0.0.{2 + n}", 0), limit=50) for n in range(ADDRESSES)
    ]
    sessions = [aiohttp.ClientSession(server.url, connector=each) for each in connectors]

    async def one(number):
        right = number % 3 == 0
        body = {"username": "ada", "password": "correct horse" if right else f"wrong {number}"}
        http = sessions[number % ADDRESSES]
        async with http.post("/auth/token", json=body) as response:
            said.append((right, response.status, response.headers.get("Retry-After")))
            await response.read()

    try:
        await asyncio.gather(*(one(number) for number in range(MANY)))
    finally:
        for session in sessions:
            await session.close()


async def test_a_thousand_log_ins(client):
    """Each is answered: a token, 401, or 429 with how long to wait; others are served meanwhile."""
    await client.user("ada")
    said, asked = [], Counter()
    flooding = asyncio.create_task(flood(client.server, said))
    while not flooding.done():
        for path in ("/health", "/v1/me"):
            asked[path, (await client.ask("GET", path))[0]] += 1
        await asyncio.sleep(0.01)
    await flooding
    assert len(said) == MANY
    assert {status for right, status, _ in said if right} <= {200, 429}
    assert {status for right, status, _ in said if not right} <= {401, 429}
    assert all(int(wait) >= 1 for _, status, wait in said if status == 429)
    checked = sum(status != 429 for _, status, _ in said)
    assert 0 < checked < MANY / 2, "what could not be checked in time must be told so at once"
    assert set(asked) == {("/health", 200), ("/v1/me", 200)}
    await client.token("ada")


async def test_a_flood_of_some_addresses_leaves_a_turn_to_another(client):
    """Addresses that have all the turns they may have do not keep one out that has none."""
    await client.user("ada")
    body = {"username": "ada", "password": "wrong"}
    said = Counter()
    flooding = True

    async def address(number):
        local = aiohttp.TCPConnector(local_addr=(f"127.0.1.{number}", 0))
        async with aiohttp.ClientSession(client.server.url, connector=local) as http:
            while flooding:
                async with http.post("/auth/token", json=body | {"username": f"n{number}"}) as got:
                    said[got.status] += 1
                await asyncio.sleep(0.05)

    tasks = [asyncio.create_task(address(1 + n // 4)) for n in range(64)]  # 16, four each
    try:
        while not said[429]:
            await asyncio.sleep(0.01)
        for _ in range(3):
            await client.token("ada")
    finally:
        flooding = False
        await asyncio.gather(*tasks)


@pytest.mark.parametrize(
    ("address", "place"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::ffff", "2001:db8:1:2::/64"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("", ""),
    ],
)
def test_where_an_address_is(address, place):
    """A network of IPv6 is one client's: its addresses have turns and delays together."""
    assert client_network(address) == place
