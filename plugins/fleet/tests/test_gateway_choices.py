"""Which server and which version a request is sent to, and how many requests a consumer has."""

from __future__ import annotations

import asyncio
import json

from gateway_stand import (  # noqa: F401
    KEY,
    application,
    consumer,
    eventually,
    stand,
    targets,
    upstreams,
)

from mataserver_fleet.gateway.snapshot import Release, Target

CLOSED = Target("127.0.0.1", 9)
"""Where nobody listens."""


def json_of(value):
    """Return a value as JSON."""
    return json.dumps(value).encode()


async def test_who_is_less_busy_is_asked(stand, upstreams, targets):  # noqa: F811
    """A server that is slow gets fewer requests than one that is quick."""
    stand.follow(application(*targets))
    await asyncio.gather(*(stand.ask() for _ in range(40)))
    assert min(len(each.seen) for each in upstreams) >= 10
    upstreams[0].pause.clear()
    before = [len(each.seen) for each in upstreams]
    slow = [asyncio.ensure_future(stand.ask()) for _ in range(4)]
    await eventually(lambda: len(upstreams[0].seen) >= before[0] + 2)
    for _ in range(20):
        await stand.ask()
    assert len(upstreams[0].seen) - before[0] <= 4
    upstreams[0].pause.set()
    assert {status for status, _, _ in await asyncio.gather(*slow)} == {200}


async def test_limits(stand, targets):  # noqa: F811
    """More than a consumer may ask is 429 with a time; others are not held up by that."""
    two = frozenset({1, 2})
    known = [consumer(1, KEY, rate=3), consumer(2, "key-of-ben", quota=2)]
    stand.follow(application(targets[0], consumers=two), consumers=known)
    assert [(await stand.ask())[0] for _ in range(5)] == [200, 200, 200, 429, 429]
    _, answer, headers = await stand.ask()
    assert "3 requests a minute" in answer["error"]
    assert int(headers["Retry-After"]) <= 20
    found = [(await stand.ask(key="key-of-ben"))[0] for _ in range(3)]
    assert found == [200, 200, 429]


async def test_versions_by_weight(stand, upstreams, targets):  # noqa: F811
    """Requests that name no version are divided; one that is not ready leaves its share."""
    route = {"releases": (Release("1", 1.0), Release("2", 3.0))}
    stand.follow(application(targets[0], route=route))
    for _ in range(80):
        await stand.ask()
    asked = [each.path for each in upstreams[0].seen]
    assert set(asked) == {f"/v2/models/cats/versions/{number}/infer" for number in (1, 2)}
    assert 40 <= sum("/2/" in each for each in asked) <= 76
    upstreams[0].ready.discard("2")
    await eventually(lambda: stand.gateway.servers.get(targets[0]).unready)
    upstreams[0].seen.clear()
    for _ in range(10):
        assert (await stand.ask())[0] == 200
    assert {each.path for each in upstreams[0].seen} == {"/v2/models/cats/versions/1/infer"}


async def test_a_mirror(stand, upstreams, targets):  # noqa: F811
    """A copy goes to the version that is tried out; its answers, late or wrong, change nothing."""
    stand.follow(application(targets[0], route={"mirror": "3"}))
    assert (await stand.ask(body=b'{"a":1}'))[1]["path"] == "/v2/models/cats/infer"
    await eventually(lambda: len(upstreams[0].seen) == 2)
    copy = next(each for each in upstreams[0].seen if "/versions/3/" in each.path)
    assert (copy.body, copy.headers["Content-Type"]) == (b'{"a":1}', "application/octet-stream")
    assert next(iter(stand.gateway.usage.total.values())).requests == 1


async def test_a_mirror_that_one_server_has(stand, upstreams, targets):  # noqa: F811
    """Every copy goes there: elsewhere it would be refused, and nobody told."""
    upstreams[0].ready.discard("3")
    stand.follow(application(*targets, route={"mirror": "3"}))
    first = stand.gateway.servers.get(targets[0])
    await eventually(lambda: first.unready)
    for number in range(1, 9):
        await stand.ask()
        await eventually(lambda: copies(upstreams[1]) == number)  # noqa: B023 - within the turn
    assert not copies(upstreams[0])


def copies(upstream):
    """Return how many copies a server was sent."""
    return sum("/versions/3/" in each.path for each in upstream.seen)


async def test_a_sequence_stays_where_it_began(stand, upstreams, targets):  # noqa: F811
    """Its requests go to one server, busy or not; another's sequence to any; no copy is made."""
    stand.follow(application(*targets, route={"mirror": "3"}))

    def body(number, **more):
        return json_of({"parameters": {"sequence_id": number, **more}, "inputs": []})

    for number in range(1, 9):
        _, first, _ = await stand.ask(body=body(number, sequence_start=True))
        for _ in range(4):
            assert (await stand.ask(body=body(number)))[1]["server"] == first["server"]
    assert all(each.seen for each in upstreams)
    assert not any("/versions/3/" in s.path for each in upstreams for s in each.seen)


async def test_a_sequence_whose_server_is_gone(stand, upstreams, targets):  # noqa: F811
    """It cannot go on elsewhere: 503 or 502 until it is begun anew."""
    stand.follow(application(*targets, resend=True))
    start = json_of({"parameters": {"sequence_id": "a", "sequence_start": True}})
    _, answer, _ = await stand.ask(body=start)
    lost = next(each for each in upstreams if each.name == answer["server"])
    await lost.stop()
    goes_on = json_of({"parameters": {"sequence_id": "a"}})
    assert (await stand.ask(body=goes_on))[0] in {502, 503}
    _, answer, _ = await stand.ask(body=start)
    assert answer["server"] != lost.name
    assert (await stand.ask(body=goes_on))[1]["server"] == answer["server"]
