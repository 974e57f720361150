"""Which requests are the gateway's, who may ask them, and that nothing else is reached."""

from __future__ import annotations

import pytest
from gateway_stand import INFER, KEY, application, stand, targets, upstreams  # noqa: F401

from mataserver_fleet.gateway.snapshot import Application, Route, is_sound


async def test_a_request_reaches_the_model(stand, upstreams, targets):  # noqa: F811
    """By the application's name in the path, with the query, at the path that the gateway makes."""
    stand.follow(application(*targets[:1]))
    status, answer, headers = await stand.ask(INFER + "?a=b%20c", b'{"x":1}')
    assert status == 200
    assert answer["path"] == "/v2/models/cats/infer?a=b%20c"
    assert upstreams[0].seen[0].body == b'{"x":1}'
    assert headers["X-Own"] == "1"


async def test_a_request_is_known_by_its_host(stand, upstreams, targets):  # noqa: F811
    """The application's host is its own on every path, whatever the port and the case."""
    stand.follow(application(*targets[:1], host="Shop.example"))
    host = {"Host": "SHOP.example.:8110"}
    assert (await stand.ask("/v2/models/cats/infer", headers=host))[0] == 200
    assert (await stand.ask("/v1/models", None, "GET", headers=host))[0] == 404
    other = {"Host": "other.example", "Authorization": f"Bearer {stand.server.key}"}
    status, answer, _ = await stand.ask("/v1/models", None, "GET", key=None, headers=other)
    assert (status, isinstance(answer, list)) == (200, True)


@pytest.mark.parametrize(
    ("method", "tail", "path"),
    [
        ("GET", "", "/v2/models/cats"),
        ("GET", "/config", "/v2/models/cats/config"),
        ("GET", "/stats", "/v2/models/cats/stats"),
        ("POST", "/infer", "/v2/models/cats/infer"),
        ("POST", "/versions/2/infer", "/v2/models/cats/versions/2/infer"),
        ("GET", "/versions/02", "/v2/models/cats/versions/2"),
    ],
)
async def test_what_may_be_asked(stand, targets, method, tail, path):  # noqa: F811
    """A model's description, configuration, statistics and inference, of a version or of none."""
    stand.follow(application(*targets[:1]))
    status, answer, _ = await stand.ask(f"/gateway/shop/v2/models/cats{tail}", method=method)
    assert (status, answer["path"]) == (200, path)


@pytest.mark.parametrize("version", ["9" * 19, "9" * 5_000, "-1", "1.0", "", "%00", "\u0661"])
async def test_a_version_that_is_none(stand, upstreams, targets, version):  # noqa: F811
    """It is 404, however long, also for whom nobody knows."""
    stand.follow(application(*targets[:1]))
    for key in (KEY, None):
        path = f"/gateway/shop/v2/models/cats/versions/{version}/infer"
        assert (await stand.ask(path, key=key))[0] == 404
    assert upstreams[0].seen == []


async def test_ready_is_the_servers(stand, targets):  # noqa: F811
    """Whether a model is ready is asked of a server."""
    stand.follow(application(*targets[:1]))
    assert (await stand.ask("/gateway/shop/v2/models/cats/ready", None, "GET"))[0] == 200


async def test_paths_of_ones_own(stand, targets):  # noqa: F811
    """A route may have other paths; the longest that fits counts."""
    short = Route("short", ("/a",), tuple(targets[:1]))
    long = Route("long", ("/a/versions/1",), tuple(targets[:1]))
    stand.follow(Application("shop", routes=(short, long), consumers=frozenset({1})))
    status, answer, _ = await stand.ask("/gateway/shop/a/versions/1/infer")
    assert (status, answer["path"]) == (200, "/v2/models/long/infer")
    status, answer, _ = await stand.ask("/gateway/shop/a/versions/2/infer")
    assert (status, answer["path"]) == (200, "/v2/models/short/versions/2/infer")


async def test_a_name_with_slashes_and_signs(stand, targets):  # noqa: F811
    """A model's name may hold slashes and what must be encoded; either spelling finds it."""
    stand.follow(application(*targets[:1], model="org/große katze"))
    for spelling in ("org/gro%C3%9Fe%20katze", "org%2Fgro%c3%9fe%20katze"):
        _, head, body = await raw(stand, f"/gateway/shop/v2/models/{spelling}/infer")
        assert head.startswith(b"HTTP/1.1 200")
        assert b"/v2/models/org/gro%C3%9Fe%20katze/infer" in body


ATTACKS = [
    "/v2/repository/index",
    "/v2/repository/models/cats/load",
    "/v2/models/cats/../../repository/index",
    "/v2/models/cats/%2e%2e/%2e%2e/repository/index",
    "/v2/models/cats/..%2f..%2frepository%2findex",
    "/v2/models/cats/%252e%252e/%252e%252e/repository/index",
    "/v2/models/cats//../../repository/index",
    "/v2/models/cats/infer/../../../repository/index",
    "/v2/models/cats/infer/",
    "//v2/models/cats/infer",
    "/v2//models/cats/infer",
    "/v2/models/cats;a=b/infer",
    "/v2/models/cats\\..\\..\\repository\\index",
    "/v2/models/cats%00/infer",
    "/v2/models/cats%0d%0aX:%20y/infer",
    "/v2/models/cats%ff/infer",
    "/v2/models/cats/trace/setting",
    "/v2/models/cats/versions/1/../../../repository/index",
    "/v2/models/cats/versions/-1/infer",
    "/v2/models/cats/versions/1%2f..%2f..%2f..%2frepository/infer",
    "/v2/models/cats/versions/\u0661/infer".encode().decode("latin-1"),
    "/v2/models/cats/generate",
    "/v2/models/dogs/infer",
    "/v2/models/stats",
    "/v2/trace/setting",
    "/v2/logging",
    "/v2/systemsharedmemory/status",
    "/v2/cudasharedmemory/region/a/register",
    "/metrics",
    "/../shop/v2/repository/index",
]


@pytest.mark.parametrize("host", [False, True], ids=["name", "host"])
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_nothing_leads_to_the_admin_plane(stand, upstreams, targets, method, host):  # noqa: F811
    """No spelling of a path reaches a server but a route's own, whoever asks."""
    stand.follow(application(*targets[:1], host="shop.example" if host else ""))
    for attack in ATTACKS:
        path = attack if host else f"/gateway/shop{attack}"
        status, _, _ = await raw(stand, path, method, "shop.example" if host else "localhost")
        assert status in {400, 404}, attack
    assert [each.path for each in upstreams[0].seen] == []


async def test_an_absolute_target_is_no_way_around(stand, upstreams, targets):  # noqa: F811
    """A request line with a whole URL is asked by its path, never sent on to its host."""
    stand.follow(application(*targets[:1]))
    aim = upstreams[0].url.encode() + b"/v2/repository/index"
    lines = (b"POST " + aim + b" HTTP/1.1", b"Host: x", b"apikey: " + KEY.encode())
    head = b"\r\n".join((*lines, b"Content-Length: 0", b"Connection: close", b"", b""))
    answer = await stand.exchange(head)
    assert answer.split(b" ", 2)[1] in {b"400", b"401", b"403", b"404"}
    assert upstreams[0].seen == []


async def raw(stand, path, method="POST", host="localhost"):  # noqa: F811
    """Ask for a path as it is spelt; return status, head and body."""
    lines = [f"{method} {path} HTTP/1.1", f"Host: {host}", f"apikey: {KEY}", "Connection: close"]
    head = "\r\n".join([*lines, "Content-Length: 2", "", "{}"]).encode("latin-1")
    head, _, body = (await stand.exchange(head)).partition(b"\r\n\r\n")
    return (int(head.split(b" ", 2)[1]), head, body)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401),
        ({"apikey": "nobody's"}, 401),
        ({"Authorization": "Bearer nobody's"}, 401),
        ({"Authorization": "Basic nobody's"}, 401),
        ({"apikey": "key-of-ben"}, 403),
        ({"Authorization": "Bearer key-of-ben"}, 403),
        ({"apikey": KEY}, 200),
        ({"Authorization": f"bearer {KEY}"}, 200),
        ({"apikey": "schlüssel"}, 401),
        ({"apikey": "nobody's", "Authorization": f"Bearer {KEY}"}, 200),
        ({"apikey": KEY, "Authorization": "Bearer nobody's"}, 200),
        ({"apikey": KEY, "Authorization": "Basic bm8="}, 200),
        ({"apikey": KEY, "Authorization": f"Bearer {KEY}"}, 200),
        ({"apikey": KEY, "Authorization": "Bearer key-of-ben"}, 400),
        ({"apikey": "key-of-ben", "Authorization": f"Bearer {KEY}"}, 400),
    ],
)
async def test_who_may_ask(stand, upstreams, targets, headers, status):  # noqa: F811
    """Without a key that is known 401, with one that the application does not know 403.

    An unknown one beside it is a proxy's. Of two that are known a proxy may have checked the other.
    """
    stand.follow(application(*targets[:1]))
    found, answer, fields = await stand.ask(key=None, headers=headers)
    assert found == status
    assert len(upstreams[0].seen) == (status == 200)
    if status >= 400:
        assert set(answer) == {"error"}
    assert ("WWW-Authenticate" in fields) == (status == 401)


@pytest.mark.parametrize(
    "shown",
    [
        [("apikey", "nobody's"), ("apikey", KEY)],
        [("apikey", KEY), ("APIKEY", KEY)],
        [("Authorization", "Bearer nobody's"), ("Authorization", f"Bearer {KEY}")],
        [("authorization", "Basic bm8="), ("Authorization", f"Bearer {KEY}")],
    ],
)
async def test_a_key_that_is_there_twice(stand, upstreams, targets, shown):  # noqa: F811
    """Whoever stands before the gateway may have looked at the other one: 400."""
    stand.follow(application(*targets[:1]))
    lines = "".join(f"{name}: {value}\r\n" for name, value in shown)
    head = f"POST {INFER} HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 2\r\n"
    answer = await stand.exchange(f"{head}{lines}\r\n{{}}".encode())
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"is there 2 times" in answer
    assert upstreams[0].seen == []


async def test_the_servers_own_key_is_no_consumers(stand, targets):  # noqa: F811
    """Whoever may do everything on the server is no consumer of an application."""
    stand.follow(application(*targets[:1]))
    assert (await stand.ask(key=stand.server.key))[0] == 401


async def test_a_key_that_was_just_revoked(stand, targets):  # noqa: F811
    """The request after the change is refused, on a connection that was accepted before too."""
    stand.follow(application(*targets[:1]))
    assert (await stand.ask())[0] == 200
    stand.follow(application(*targets[:1], consumers=frozenset()))
    assert (await stand.ask())[0] == 403
    stand.gateway.follow(type(stand.gateway.snapshot)([application(*targets[:1])], []))
    assert (await stand.ask())[0] == 401


async def test_what_is_not_there(stand, targets):  # noqa: F811
    """No such application or route is 404, the wrong method 405, a route for others 404."""
    stand.follow(application(*targets[:1], route={"protocols": frozenset({"grpc"})}))
    assert (await stand.ask("/gateway/none/v2/models/cats/infer"))[0] == 404
    assert (await stand.ask())[0] == 404
    stand.follow(application(*targets[:1]))


async def test_another_method(stand, targets):  # noqa: F811
    """405 names in ``Allow`` what a path is asked by (RFC 9110, 15.5.6), to who may ask it."""
    stand.follow(application(*targets[:1]))
    await stand.ask()  # as an inference whose head is known
    base = "/gateway/shop"
    for path, method, allowed in (
        ("/v2/models/cats/infer", "GET", "POST"),
        ("/v2/models/cats/versions/1/infer", "DELETE", "POST"),
        ("/v2/models/cats/ready", "PUT", "GET, HEAD"),
        ("/v2/models/cats", "POST", "GET, HEAD"),
        ("/v2", "POST", "GET, HEAD"),
        ("/v2/health/live", "PATCH", "GET, HEAD"),
        ("/v1/infer", "GET", "POST"),
        ("/v1/sessions", "GET", "POST"),
    ):
        status, answer, fields = await stand.ask(base + path, method=method, body=None)
        assert (status, fields.get("Allow")) == (405, allowed), path
        assert answer == {"error": f"The allowed methods are {allowed.replace(', ', ' and ')}"}, (
            path
        )
        assert (await stand.ask(base + path, method=method, body=None, key=None))[0] == 401, path


async def test_an_application_tells_of_itself(stand, upstreams, targets):  # noqa: F811
    """Clients of the protocol find the server's routes: answered here, for consumers alone."""
    stand.follow(application(*targets))
    base = "/gateway/shop/v2"
    assert (await stand.ask(f"{base}/health/live", None, "GET"))[:2] == (200, {"live": True})
    assert (await stand.ask(f"{base}/health/ready", None, "GET"))[:2] == (200, {"ready": True})
    assert (await stand.ask(base, None, "GET"))[1]["name"] == "mataserver"
    assert (await stand.ask(base, None, "GET", key="key-of-ben"))[0] == 403
    assert (await stand.ask(base, None, "GET", key=None))[0] == 401
    assert [each.seen for each in upstreams] == [[], []]
    stand.follow(application())
    assert (await stand.ask(f"{base}/health/ready", None, "GET"))[:2] == (400, {"ready": False})


def test_names_that_cannot_be():
    """A name that would change a path is not sound."""
    assert all(is_sound(name) for name in ("cats", "org/cats", "a b", "..a", "ß"))
    assert not any(is_sound(n) for n in ("", "/a", "a//b", "../a", "a/..", ".", "a\\b", "a\n"))


async def test_what_answers_get_answers_head(stand, targets):  # noqa: F811
    """The same status, type and length without a body (RFC 9110, 9.3.2)."""
    stand.follow(application(*targets[:1]))
    await stand.ready()
    for path in ("/v2", "/v2/health/live", "/v2/health/ready", "/v2/models/cats/ready"):
        whole = await stand.ask(f"/gateway/shop{path}", method="GET", body=None)
        head = await stand.ask(f"/gateway/shop{path}", method="HEAD", body=None)
        assert (whole[0], head[0], head[1]) == (200, 200, b""), path
        assert head[2]["Content-Type"] == whole[2]["Content-Type"], path
        if whole[1]:
            assert head[2]["Content-Length"] == whole[2]["Content-Length"], path
    assert (await stand.ask("/gateway/shop/v2", method="HEAD", body=None, key=None))[0] == 401
