"""The same requests are answered alike on both databases."""

from __future__ import annotations

import contextlib
import os
import random
import uuid
from collections import Counter

import aiohttp
from fleet_client import Client
from random_requests import Asker, next_request

from mataserver.testing import FAKE, installed, serving

SEED = int(os.environ.get("FLEET_SEED", "1"))
REQUESTS = int(os.environ.get("FLEET_REQUESTS", "300"))
"""Random requests; thousands are a matter of a minute."""


async def test_random_requests(tmp_path, template, postgres):
    """Whatever they are: the status, the sentence, the order of lists, what is refused."""
    url = await template.database(postgres, f"test_{uuid.uuid4().hex}")
    askers, rng, found = [], random.Random(SEED), Counter()
    async with contextlib.AsyncExitStack() as stack:
        for name, database in (("sqlite", {}), ("postgresql", {"database": {"url": url}})):
            (tmp_path / name).mkdir()
            points = [FAKE, *installed("database", "accounts", "fleet")]
            running = serving(
                tmp_path / name, entry_points=points, engine="thread", plugins=database
            )
            served = await stack.enter_async_context(running)
            jar = aiohttp.DummyCookieJar()
            http = await stack.enter_async_context(aiohttp.ClientSession(cookie_jar=jar))
            askers.append(Asker(Client(http, served)))
        for number in range(REQUESTS):
            request = next_request(rng)
            one, other = [await each.ask(request) for each in askers]
            assert one == other, (number, request)
            assert one[0] < 500, (number, request, one)
            found[one[0]] += 1
    assert {200, 201, 204, 401, 403, 404, 409, 422} <= set(found), found
