"""The last errors of the gateway, as an operator sees them."""

from __future__ import annotations

from aiohttp import web
from onnx_files import adding
from test_models import push
from upstreams import Upstream

from mataserver_fleet.gateway.failures import KEPT, REFUSALS, Failures
from mataserver_fleet.gateway.usage import Subject

TILL = Subject("till", "shop", "cats")
INFER = "/gateway/shop/v2/models/cats/infer"
REGION = b'{"inputs": [{"parameters": {"shared_memory_region": "theirs"}}]}'
"""What no consumer may name."""


class Refusing(Upstream):
    """A server that has every model; where it ``refuses``, with a text of its own."""

    refuses = False

    async def inferred(self, request):
        """Answer an inference, or refuse it."""
        if not self.refuses:
            return await super().inferred(request)
        return web.json_response({"error": "told to its consumer"}, status=400)


async def shop(client):
    """Make an application with a model and a consumer; return its key."""
    await push(client, "cats", {"model.onnx": adding(1)})
    await client.made("/api/apps", {"name": "shop"})
    await client.made("/api/apps/shop/routes/cats")
    return (await client.made("/api/apps/shop/consumers/till"))["key"]


async def infer(client, key, data=b"{}"):
    """Ask as a consumer; return status and answer."""
    return await client.ask("POST", INFER, "", headers={"apikey": key}, data=data)


async def test_the_last_errors(client):
    """The newest first, with the gateway's reason, to who may read the fleet; no key is told."""
    key = await shop(client)
    assert await client.ask("GET", "/api/errors") == (200, {"errors": []})
    status, first = await infer(client, key, REGION)
    assert status == 400
    assert (await infer(client, "unknown"))[0] == 401
    status, last = await infer(client, key)
    assert status == 503
    status, told = await client.ask("GET", "/api/errors")
    newest, oldest = told["errors"]
    assert newest["at"] >= oldest["at"]
    reason = first["error"]
    assert oldest == {"at": oldest["at"], **TILL._asdict(), "status": 400, "reason": reason}
    assert (newest["status"], newest["reason"]) == (503, last["error"])
    assert key not in str(told)
    assert (await client.ask("GET", "/api/errors?limit=5"))[0] == 422
    viewer = await client.person("ada", "viewer")
    assert (await client.ask("GET", "/api/errors", viewer))[1] == told
    assert (await client.ask("GET", "/api/errors", key))[0] == 403
    assert (await client.ask("GET", "/api/errors", ""))[0] == 401


async def test_a_servers_own_error(client):
    """It has no reason: what the server says is its consumer's alone. What is well is no error."""
    key, server = await shop(client), Refusing("one")
    await server.start()
    try:
        given = {"name": "one", "host": "127.0.0.1", "port": server.port}
        await client.made("/api/tritons", given)
        await client.ask("POST", "/api/models/cats/load", json={})
        assert (await infer(client, key))[0] == 200  # the next are answered without a task
        server.refuses = True
        told = [await infer(client, key) for _ in range(2)]
        assert told == [(400, {"error": "told to its consumer"})] * 2
        _, told = await client.ask("GET", "/api/errors")
        assert [(each["status"], each["reason"]) for each in told["errors"]] == [(400, "")] * 2
    finally:
        await server.stop()


def test_how_many_are_kept():
    """The newest of many, each with a reason of a limited length, and no client that left."""
    failures = Failures(iter(range(1000)).__next__)
    for number in range(KEPT + 50):
        failures.note(503, TILL._replace(consumer=f"c{number}"), "r" * 1000)
    failures.note(499, TILL)
    found = failures.newest().errors
    assert len(found) == KEPT
    assert (found[0].consumer, len(found[0].reason)) == (f"c{KEPT + 49}", 500)
    assert found[-1].consumer == "c50"


async def test_what_a_known_consumer_was_refused(client):
    """A rate, and a link that lacks, are listed once each at their last time; unknown keys not."""
    key = await shop(client)
    other = (await client.made("/api/consumers", {"name": "kiosk"}))["key"]
    await client.made("/api/apps/shop/consumers/slow", {"rate": 1})
    slow = (await client.ask("POST", "/api/consumers/slow/key"))[1]["key"]
    statuses = [(await infer(client, each))[0] for each in (slow, slow, other, other, slow, "no")]
    assert statuses == [503, 429, 403, 403, 429, 401]
    _, told = await client.ask("GET", "/api/errors")
    names = ("status", "consumer", "application", "model")
    assert [tuple(each[name] for name in names) for each in told["errors"]] == [
        (429, "slow", "shop", "cats"),
        (403, "kiosk", "shop", ""),
        (503, "slow", "shop", "cats"),
    ]
    assert told["errors"][0]["reason"] == "More than 1 requests a minute"
    assert key not in str(told)


def test_how_many_refusals_are_kept():
    """Many of one consumer's are one, and those of many push out no error of what was let in."""
    failures = Failures(iter(range(10_000)).__next__)
    failures.note(503, TILL)
    for number in range(REFUSALS + 7):
        for _ in range(5):
            failures.note_refusal(429, TILL._replace(consumer=f"c{number}"), "too many")
    found = failures.newest().errors
    assert [each.consumer for each in found[:2]] == [f"c{REFUSALS + 6}", f"c{REFUSALS + 5}"]
    assert (len(found), found[-1].status) == (REFUSALS + 1, 503)
