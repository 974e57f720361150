"""Browsers, sockets and calls of users through a real server: they end with what opened them."""

from __future__ import annotations

import asyncio
import socket
import time

import aiohttp
import grpc
import pytest

from mataserver.testing import installed


async def test_a_browser(client):
    """A browser signs in with a token, and is signed out when the user is disabled."""
    _, token = await client.user("ada")
    status, login = await client.ask("POST", "/v1/session", "", json={"key": token})
    assert (status, login["name"]) == (200, "ada")
    status, me = await client.ask("GET", "/v1/me", "")
    assert (status, me["name"]) == (200, "ada")
    await client.ask("PATCH", "/v1/users/ada", json={"disabled": True})
    assert (await client.ask("GET", "/v1/me", ""))[0] == 401


async def test_what_a_browser_rests_on(client):
    """A browser is signed out when its token is given up, and when its key ends or is revoked."""
    _, token = await client.user("ada")
    again = await client.token("ada")

    async def key(**more):
        return (await client.ask("POST", "/v1/keys", again, json={"name": "k", **more}))[1]

    async def signed_in(secret):
        """Sign the browser in."""
        status, _ = await client.ask("POST", "/v1/session", "", json={"key": secret})
        assert status == 200
        assert (await client.ask("GET", "/v1/me", ""))[0] == 200

    revoked = await key()
    for secret, end in (
        (token, {"path": "/auth/token", "secret": token}),
        (revoked["key"], {"path": f"/v1/keys/{revoked['id']}", "secret": again}),
    ):
        await signed_in(secret)
        assert (await client.ask("DELETE", **end))[0] == 204
        assert (await client.ask("GET", "/v1/me", ""))[0] == 401
    # Made last: nothing but its own sign-in lies between its making and its end.
    ends = time.time() + 3
    await signed_in((await key(expires_at=ends))["key"])
    await asyncio.sleep(max(0.0, ends - time.time()) + 0.05)
    assert (await client.ask("GET", "/v1/me", ""))[0] == 401
    assert (await client.ask("GET", "/v1/me", again))[0] == 200


async def test_a_password_of_ones_own(client):
    """Who knows the current password gets another; tokens of before end, a fresh one counts."""
    user, token = await client.user("ada")
    status, login = await client.ask("POST", "/v1/session", "", json={"key": token})
    assert (status, login["name"]) == (200, "ada")
    change = {"current": "correct horse", "new": "battery staple"}
    path = "/v1/me/password"
    assert (await client.ask("PUT", path, token, json={**change, "current": "x"}))[0] == 403
    status, answer = await client.ask("PUT", path, token, json=change)
    assert (status, answer["token_type"]) == (200, "bearer")
    assert client.headers["Cache-Control"] == "no-store"
    assert (await client.ask("GET", "/v1/me", token))[0] == 401
    assert (await client.ask("GET", "/v1/me", ""))[0] == 401  # the browser's session
    _, me = await client.ask("GET", "/v1/me", answer["access_token"])
    assert me["user"]["id"] == user["id"]
    old = {"username": "ada", "password": "correct horse"}
    assert (await client.ask("POST", "/auth/token", "", json=old))[0] == 401
    await client.token("ada", "battery staple")


async def test_passwords_that_are_not_changed(client):
    """A key has none; what is wrong is refused; who guesses must wait as for a log-in."""
    _, token = await client.user("ada")
    key = (await client.ask("POST", "/v1/keys", token, json={"name": "k"}))[1]["key"]
    change, path = {"current": "correct horse", "new": "battery staple"}, "/v1/me/password"
    assert (await client.ask("PUT", path, key, json=change))[0] == 403
    assert (await client.ask("PUT", path, json=change))[0] == 403  # the server's own key
    assert (await client.ask("PUT", path, "", json=change))[0] == 401
    for wrong in ({}, {**change, "new": ""}, {**change, "new": "x" * 1025}, {**change, "x": 1}):
        assert (await client.ask("PUT", path, token, json=wrong))[0] == 422
    for _ in range(5):
        guess = {**change, "current": "guess"}
        assert (await client.ask("PUT", path, token, json=guess))[0] == 403
    assert (await client.ask("PUT", path, token, json=change))[0] == 429
    assert int(client.headers["Retry-After"]) >= 1


async def test_a_web_socket(client):
    """A WebSocket takes a token in its query, and none that does not count."""
    _, token = await client.user("ada")
    await client.ask("POST", "/v1/models/pull", json={"model": "fake-detect", "task": "detect"})
    body = {"model": "fake-detect"}
    status, session = await client.ask("POST", "/v1/sessions", token, json=body)
    assert status == 201, session
    async with aiohttp.ClientSession() as http:
        async with http.ws_connect(f"{session['ws_url']}?token=eyJ.eyJ.x") as stream:
            await stream.receive()
            assert stream.close_code == 4001
        async with http.ws_connect(f"{session['ws_url']}?token={token}") as stream:
            await stream.send_bytes(b"no picture")
            message = await stream.receive()
            assert message.type is aiohttp.WSMsgType.TEXT


@pytest.mark.parametrize("way", ["key", "token", "password", "disabled", "removed"])
async def test_a_stream_ends_with_what_opened_it(client, way):
    """A socket that was opened by what counts no more is closed with 4001, at once."""
    user, token = await client.user("ada")
    await client.ask("POST", "/v1/models/pull", json={"model": "fake-detect", "task": "detect"})
    _, key = await client.ask("POST", "/v1/keys", token, json={"name": "camera"})
    shown = key["key"] if way == "key" else token
    body = {"model": "fake-detect"}
    _, session = await client.ask("POST", "/v1/sessions", shown, json=body)
    acts = {
        "key": ("DELETE", f"/v1/keys/{key['id']}", None),
        "token": ("DELETE", "/auth/token", token),
        "password": ("PATCH", f"/v1/users/{user['id']}", None),
        "disabled": ("PATCH", f"/v1/users/{user['id']}", None),
        "removed": ("DELETE", f"/v1/users/{user['id']}", None),
    }
    given = {"password": {"password": "another horse here"}, "disabled": {"disabled": True}}
    async with (
        aiohttp.ClientSession() as http,
        http.ws_connect(f"{session['ws_url']}?token={shown}") as stream,
    ):
        await stream.send_bytes(b"no picture")
        assert (await stream.receive(timeout=20)).type is aiohttp.WSMsgType.TEXT
        method, path, secret = acts[way]
        status, said = await client.ask(method, path, secret, json=given.get(way))
        assert status < 300, said
        await stream.receive(timeout=20)
        assert stream.close_code == 4001


async def test_grpc(serve):
    """A call takes a token in its metadata, and none that does not count."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    async with serve(points=installed("oip"), others={"oip": {"grpc_port": port}}) as client:
        _, token = await client.user("ada")
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            call = channel.unary_unary("/inference.GRPCInferenceService/ServerMetadata")
            assert await call(b"", metadata=(("authorization", f"Bearer {token}"),))
            await client.ask("PATCH", "/v1/users/ada", json={"disabled": True})
            with pytest.raises(grpc.aio.AioRpcError) as told:
                await call(b"", metadata=(("authorization", f"Bearer {token}"),))
            assert told.value.code() is grpc.StatusCode.UNAUTHENTICATED
