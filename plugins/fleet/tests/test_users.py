"""``/api/users`` and ``/api/login`` through a real server, on SQLite and on PostgreSQL."""

from __future__ import annotations

import asyncio
import logging

import pytest
import sqlalchemy as sa
from stand_in_fleet import until

from mataserver_accounts import directory
from mataserver_accounts.announced_tables import AnnouncedTables
from mataserver_accounts.passwords import Passwords
from mataserver_database import Busy, Full
from mataserver_fleet import api
from mataserver_fleet.permissions import Grants
from mataserver_fleet.tables import GRANTS

OK = (200, {"status": "ok"})
ADA = {"name": "ada", "password": "correct horse", "role": "developer", "tags": "night, floor 2"}


async def test_users(client):
    """A user is made, listed, read by id and by name, changed and removed; no password is told."""
    made = await client.made("/api/users", ADA)
    shown = {"id": made["id"], "name": "ada", "role": "developer", "tags": "night,floor 2"}
    shown["apps"] = []
    assert made == {**shown, "status": "ok"}
    for identity in ("ada", made["id"]):
        assert await client.ask("GET", f"/api/users/{identity}", json=ADA) == (200, shown)
    assert await client.ask("GET", "/api/users") == (200, {"users": [shown], "total": 1})
    change = {"role": "viewer", "tags": "", "password": "other horse"}
    status, changed = await client.ask("PATCH", "/api/users/ada", json=change)
    assert (status, changed) == (200, {**shown, "role": "viewer", "tags": "", "status": "ok"})
    login = {"name": "ada", "password": "other horse"}
    assert (await client.ask("POST", "/api/login", "", json=login))[0] == 200
    assert await client.ask("DELETE", "/api/users/ada") == OK
    assert (await client.ask("GET", "/api/users/ada"))[0] == 404
    assert not [text for text in client.said if "horse" in text or "argon2" in text]


async def test_tags_that_accounts_take(client):
    """The same are taken here: a joined emoji, and a space that does not break."""
    for path, tags in (
        ("/v1/users", ["👩\u200d🔧", "floor\xa02"]),
        ("/api/users", "👩\u200d🔧,floor\xa02"),
    ):
        name = "a" + str(len(path))
        made = await client.made(path, {**ADA, "name": name, "tags": tags})
        assert (await client.ask("GET", f"/api/users/{name}"))[1]["tags"] == "👩\u200d🔧,floor\xa02"
        assert made["tags"] == tags


async def test_a_look_for_removed_users_that_fails(client, monkeypatch):
    """It is repeated soon, though nothing else changes; it waited for an hour."""
    monkeypatch.setattr(api, "RETRY_SECONDS", 0.05)
    made = await client.made("/api/users", ADA)
    await client.made("/api/apps", {"name": "shop"})
    assert (await client.ask("POST", "/api/users/ada/apps/shop/auth"))[0] == 200
    forget, failed = Grants.forget_removed, []

    async def busy(grants, departed):
        if len(failed) < 2:
            failed.append(made["id"])
            raise Busy("The database does not answer now")
        await forget(grants, departed)

    monkeypatch.setattr(Grants, "forget_removed", busy)
    assert (await client.ask("DELETE", "/v1/users/ada"))[0] == 204

    await until(lambda: has_no_rights(client, made))
    assert len(failed) == 2


async def test_a_user_who_is_removed_without_room_for_it(client, monkeypatch):
    """They are refused all the same, by the answer that says that it could not be stored."""
    token = await client.person("ada")

    async def full(*_given):
        raise Full("The disk of the database is full")

    monkeypatch.setattr(AnnouncedTables, "_announce", full)
    assert (await client.ask("DELETE", "/api/users/ada"))[0] == 507
    assert (await client.ask("GET", "/v1/me", token))[0] == 401


async def test_a_user_who_is_changed_before_their_removal_is_stored(client, monkeypatch, caplog):
    """They stay refused: ``If-Match`` was of the removal's moment. Their authorisations go too."""
    caplog.set_level(logging.INFO, logger="mataserver.plugin.accounts")
    monkeypatch.setattr(directory, "STORE_SECONDS", 3600.0)
    refused = []
    token = await client.person("ada")
    await client.made("/api/apps", {"name": "door"})
    assert (await client.ask("POST", "/api/users/ada/apps/door/auth"))[0] == 200
    _, ada = await client.ask("GET", "/api/users/ada")
    headers = {"If-Match": client.headers["ETag"]}

    async def full(*_given):
        refused.append(True)
        raise Full("The disk of the database is full")

    with monkeypatch.context() as patch:
        patch.setattr(AnnouncedTables, "_announce", full)
        assert (await client.ask("DELETE", "/api/users/ada", headers=headers))[0] == 507
        await until(lambda: asyncio.sleep(0, len(refused) >= 2))
    assert (await client.ask("PATCH", "/v1/users/ada", json={"tags": ["late"]}))[0] == 200

    async def removed():
        return (await client.ask("GET", "/api/users/ada"))[0] == 404

    await until(removed)
    assert (await client.ask("GET", "/v1/me", token))[0] == 401
    await until(lambda: has_no_rights(client, ada))
    assert "valid again" not in caplog.text


async def test_a_user_whom_others_remove(client):
    """Also who was removed past the fleet leaves no authorisation behind; others keep theirs."""
    await client.made("/api/apps", {"name": "door"})
    for name in ("ada", "bob"):
        await client.made("/api/users", {**ADA, "name": name})
        assert (await client.ask("POST", f"/api/users/{name}/apps/door/auth"))[0] == 200
    _, ada = await client.ask("GET", "/api/users/ada")
    assert not await has_no_rights(client, ada)
    assert (await client.ask("DELETE", "/v1/users/ada"))[0] == 204
    await until(lambda: has_no_rights(client, ada))
    assert (await client.ask("GET", "/api/users/bob/apps"))[1] == {"apps": ["door"]}


async def has_no_rights(client, user):
    """Whether the tables hold no authorisation of a user."""
    async with client.server.service("fleet")._components.store.read() as connection:
        own = sa.select(GRANTS).where(GRANTS.c.user_id == user["id"])
        return not (await connection.execute(own)).first()


async def test_a_full_disk_is_documented(client):
    """Every route that changes something says that there may be no room for it."""
    _, document = await client.ask("GET", "/openapi.json")
    own = ((path, of) for path, of in document["paths"].items() if path.startswith("/api/"))
    writes = {
        f"{method} {path}": operation["responses"]
        for path, operations in own
        for method, operation in operations.items()
        if method in {"post", "put", "patch", "delete"} and path != "/api/login"
    }
    assert len(writes) > 20
    assert [name for name, answers in writes.items() if "507" not in answers] == []


async def test_wrong_users(client):
    """Every field is checked, and a name is of one user."""
    await client.made("/api/users", ADA)
    for change, wanted in (
        ({}, 409),
        ({"name": "Ada"}, 422),
        ({"name": "eve", "password": ""}, 422),
        ({"name": "eve", "role": "root"}, 422),
        ({"name": "eve", "tags": "x" * 65}, 422),
        ({"name": "eve", "tags": "night,\x1b[31mred"}, 422),
        ({"name": "eve", "tags": "night,\x9b31mred"}, 422),
        ({"name": "eve", "tags": ["x"]}, 422),
        ({"name": "eve", "id": "1"}, 422),
    ):
        status, answer = await client.ask("POST", "/api/users", json={**ADA, **change})
        assert (status, set(answer)) == (wanted, {"detail", "error"})


async def test_log_in(client):
    """A name and a password become a token and a browser's session; a log-out ends both."""
    await client.made("/api/users", ADA)
    other = {"Origin": "http://evil.example"}  # its request lacks the cookie, as browsers send it
    assert (await client.ask("POST", "/api/logout", "", headers=other))[0] == 403
    assert "Set-Cookie" not in client.headers
    person = {"name": "ada", "password": "correct horse"}
    status, answer = await client.ask("POST", "/api/login", "", json=person)
    assert (status, set(answer)) == (200, {"token", "expires_in", "csrf"})
    assert client.headers["Cache-Control"] == "no-store"
    cookie = client.headers["Set-Cookie"].partition(";")[0]
    assert "HttpOnly" in client.headers["Set-Cookie"]
    assert (await client.ask("GET", "/api/tritons", answer["token"]))[0] == 200
    browser = {"Cookie": cookie}
    assert (await client.ask("GET", "/api/tritons", "", headers=browser))[0] == 200
    own = {**browser, "Origin": client.server.url}
    change = {"password": "new horse", "old_password": "correct horse"}
    patch = ("PATCH", "/api/users/ada", "")
    assert (await client.ask(*patch, headers=own, json=change))[0] == 403
    for foreign in (other, {"Sec-Fetch-Site": "same-site"}):
        given = {**browser, **foreign}
        assert (await client.ask("POST", "/api/logout", "", headers=given))[0] == 403
    assert (await client.ask("GET", "/api/tritons", "", headers=browser))[0] == 200
    assert await client.ask("POST", "/api/logout", answer["token"], headers=browser) == OK
    assert (await client.ask("GET", "/api/tritons", answer["token"]))[0] == 401
    assert (await client.ask("GET", "/api/tritons", "", headers=browser))[0] == 401


@pytest.mark.parametrize(
    ("change", "wanted"),
    [({"disabled": True}, 401), ({"password": "new horse"}, 401), ({"role": "viewer"}, 200)],
)
async def test_a_log_in_that_was_overtaken(client, monkeypatch, change, wanted):
    """Whoever is changed while their password is checked is not signed in as what they were."""
    await client.made("/api/users", ADA)
    matches = Passwords.matches

    async def overtaken(self, password, known):
        found = await matches(self, password, known)
        assert (await client.ask("PATCH", "/v1/users/ada", json=change))[0] == 200
        return found

    monkeypatch.setattr(Passwords, "matches", overtaken)
    person = {"name": "ada", "password": "correct horse"}
    status, _ = await client.ask("POST", "/api/login", "", json=person)
    assert (status, "Set-Cookie" in client.headers) == (wanted, wanted == 200)
    if wanted == 200:
        cookie = client.headers["Set-Cookie"].partition(";")[0]
        _, me = await client.ask("GET", "/v1/me", "", headers={"Cookie": cookie})
        assert "infer" not in me["scopes"]


async def test_wrong_log_ins(client):
    """Whatever is wrong about a name and a password, the answer is one; then one must wait."""
    await client.made("/api/users", ADA)
    for name in ("ada", "nobody"):
        wrong = {"name": name, "password": "wrong"}
        said = "Invalid credentials"
        answer = await client.ask("POST", "/api/login", "", json=wrong)
        assert answer == (401, {"detail": said, "error": said})
    wrong = {"name": "ada", "password": "wrong"}
    statuses = [(await client.ask("POST", "/api/login", "", json=wrong))[0] for _ in range(5)]
    assert statuses == [401, 401, 401, 401, 429]
    for body in ({"name": "ada"}, {"password": "x"}, [], {"name": 1, "password": "x"}):
        assert (await client.ask("POST", "/api/login", "", json=body))[0] == 422


async def test_ones_own_password(client):
    """Who is no administrator changes their own password with the old one, and nothing else."""
    token = await client.person("dev")
    await client.made("/api/users", ADA)
    for body, wanted in (
        ({"password": "new"}, 422),
        ({"password": "new", "old_password": "wrong"}, 401),
        ({"role": "admin", "old_password": "correct horse"}, 403),
        ({"tags": "x", "old_password": "correct horse"}, 403),
    ):
        assert (await client.ask("PATCH", "/api/users/dev", token, json=body))[0] == wanted
    assert (await client.ask("PATCH", "/api/users/ada", token, json={}))[0] == 404
    body = {"password": "new", "old_password": "correct horse"}
    assert (await client.ask("PATCH", "/api/users/dev", token, json=body))[0] == 200
    assert (await client.ask("GET", "/api/users/dev", token))[0] == 401


async def test_what_people_see(client):
    """Who is no administrator sees their own record, and makes nobody."""
    token = await client.person("vera", "viewer")
    await client.made("/api/users", ADA)
    status, listed = await client.ask("GET", "/api/users", token)
    assert (status, [each["name"] for each in listed["users"]]) == (200, ["vera"])
    assert (await client.ask("GET", "/api/users/ada", token))[0] == 404
    assert (await client.ask("GET", "/api/users/ada/apps", token))[0] == 404
    assert (await client.ask("POST", "/api/users", token, json=ADA))[0] == 403
    assert (await client.ask("DELETE", "/api/users/ada", token))[0] == 403
    assert (await client.ask("POST", "/api/users/vera/apps/a/auth", token))[0] == 403


async def test_the_last_administrator(client):
    """Nobody removes or demotes the only one who can administer."""
    await client.person("ada", "admin")
    assert (await client.ask("DELETE", "/api/users/ada"))[0] == 409
    assert (await client.ask("PATCH", "/api/users/ada", json={"role": "viewer"}))[0] == 409


async def test_authorisations(client):
    """A user is authorised for an application, twice is once, and no more; both must exist."""
    await client.made("/api/users", ADA)
    await client.made("/api/apps", {"name": "shop"})
    path = "/api/users/ada/apps/shop"
    for _ in range(2):
        assert await client.ask("POST", f"{path}/auth") == OK
    assert (await client.ask("GET", "/api/users/ada"))[1]["apps"] == ["shop"]
    for user, app in (("ada", "absent"), ("absent", "shop")):
        for verb in ("auth", "unauth"):
            assert (await client.ask("POST", f"/api/users/{user}/apps/{app}/{verb}"))[0] == 404
    for _ in range(2):
        assert await client.ask("POST", f"{path}/unauth") == OK
    assert await client.ask("GET", "/api/users/ada/apps") == (200, {"apps": []})
    assert (await client.ask("GET", "/api/users/ada/apps?name=shop"))[0] == 422
    await client.ask("POST", f"{path}/auth")
    await client.ask("DELETE", "/api/apps/shop")
    assert await client.ask("GET", "/api/users/ada/apps") == (200, {"apps": []})
