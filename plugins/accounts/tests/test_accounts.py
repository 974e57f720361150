"""Users, keys and tokens, on SQLite and on PostgreSQL."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import uuid

import jwt
import msgspec
import pytest
import sqlalchemy as sa
from argon2 import PasswordHasher

from mataserver import ROLES, Conflict, InvalidParams, NotFound
from mataserver_accounts.login_delays import FREE_FAILURES, LoginDelays, TooManyAttempts
from mataserver_accounts.passwords import Passwords
from mataserver_accounts.snapshot import InvalidToken, KeyRates, RateLimited, Snapshot
from mataserver_accounts.store import Accounts
from mataserver_accounts.tokens import ALGORITHM, AUDIENCE, Tokens

SECRET = "a secret of the test that is long enough"


@pytest.fixture
def tokens(clock):
    """The tokens of the test."""
    return Tokens(SECRET, 900, clock)


@pytest.fixture
def snapshot(accounts, tokens, clock):
    """Return what makes a snapshot of the database as it stands."""
    rates = KeyRates(clock)

    async def make():
        return Snapshot(await accounts.read_all(), tokens, rates, clock)

    return make


async def test_users(accounts, clock):
    """A user is made, found by id and name, changed and removed; a name is given once."""
    ada = await accounts.add_user("ada", "pass word", "admin", ["lab"])
    assert (ada.role, ada.tags, ada.disabled, ada.created_at) == (
        "admin",
        ["lab"],
        False,
        clock.now,
    )
    assert await accounts.user("ada") == await accounts.user(ada.id) == ada
    with pytest.raises(Conflict, match="called ada"):
        await accounts.add_user("ada", "other", "viewer")
    bob = await accounts.add_user("bob", "secret", "viewer")
    assert [user.name for user in (await accounts.users()).users] == ["ada", "bob"]
    assert (await accounts.change_user("bob", role="developer", tags=["x"])).role == "developer"
    assert (await accounts.remove_user(bob.id)).name == "bob"
    with pytest.raises(NotFound):
        await accounts.user("bob")
    again = await accounts.add_user("bob", "secret", "viewer")
    assert again.id != bob.id


async def at_once(*changes):
    """Run changes that each wait, where they can, until all have looked at their user."""
    looked = asyncio.Barrier(len(changes))

    async def check(_revision, _connection):
        with contextlib.suppress(TimeoutError, asyncio.BrokenBarrierError):
            async with asyncio.timeout(0.25):
                await looked.wait()

    return await asyncio.gather(*(change(check) for change in changes), return_exceptions=True)


@pytest.mark.parametrize("others", [(), ("cyd",)])
async def test_two_administrators_go_at_once(accounts, others):
    """Of two changes that each end an administrator both are done, or one where nobody is left."""
    for name in ("ada", "bob", *others):
        await accounts.add_user(name, "x", "admin")
    ended = await at_once(
        lambda check: accounts.change_user("ada", role="viewer", check=check),
        lambda check: accounts.remove_user("bob", check),
    )
    refused = [str(each) for each in ended if isinstance(each, Exception)]
    assert len(refused) == (0 if others else 1), refused
    assert all(each.endswith("is the last administrator") for each in refused)
    left = [user.name for user in (await accounts.users()).users if user.role == "admin"]
    assert left == list(others) or (not others and len(left) == 1)


async def test_the_last_administrator_stays(accounts):
    """Nobody can remove, disable or demote the only one who can administer."""
    await accounts.add_user("ada", "x", "admin")
    await accounts.add_user("bob", "x", "viewer")
    for change in ({"role": "viewer"}, {"disabled": True}):
        with pytest.raises(Conflict, match="ada is the last administrator"):
            await accounts.change_user("ada", **change)
    with pytest.raises(Conflict, match="last administrator"):
        await accounts.remove_user("ada")
    await accounts.change_user("bob", role="admin")
    await accounts.change_user("ada", disabled=True)
    with pytest.raises(Conflict, match="bob is the last administrator"):
        await accounts.remove_user("bob")
    await accounts.remove_user("ada")


async def test_passwords(accounts, database):
    """Only the right password of a user who is not disabled is accepted, and only its hash kept."""
    await accounts.add_user("root", "x", "admin")
    ada = await accounts.add_user("ada", "correct horse", "viewer")
    assert await accounts.check_password("ada", "correct horse") == (ada, 1)
    for name, password in (("ada", "wrong"), ("ada", ""), ("nobody", "x"), ("ada", "\ud800")):
        assert await accounts.check_password(name, password) is None
    await accounts.change_user("ada", password="battery staple")
    assert await accounts.check_password("ada", "correct horse") is None
    assert (await accounts.check_password("ada", "battery staple"))[1] == 2
    await accounts.change_user("ada", disabled=True)
    assert await accounts.check_password("ada", "battery staple") is None
    async with database.read() as connection:
        kept = list(await connection.scalars(sa.text("SELECT password FROM users")))
    assert all(each.startswith("$argon2id$v=19$m=19456,t=2,p=1$") for each in kept)


async def test_a_first_password_by_its_digest(accounts, database):
    """A SHA-256 digest is accepted as a password's hash, and replaced at the first log-in."""
    digest = hashlib.sha256(b"first").hexdigest()
    await accounts.add_user("ada", digest, "admin", hashed=True)
    assert await accounts.check_password("ada", "second") is None
    assert await accounts.check_password("ada", "first") is not None
    async with database.read() as connection:
        kept = await connection.scalar(sa.text("SELECT password FROM users"))
    assert kept.startswith("$argon2id$")
    assert await accounts.check_password("ada", "first") is not None


async def test_a_scope_of_a_later_version(accounts, snapshot):
    """A key in a database that a later version has written has the scopes that are known here."""
    made = await accounts.add_key("cams", ["infer", "infer:later"])
    principal = (await snapshot()).owner_of(made.key)
    assert principal.scopes == {"infer"}


async def test_keys(accounts, snapshot, clock):
    """A key is shown once, counts until it is revoked or over, and has its scopes alone."""
    made = await accounts.add_key("cams", ["infer"], expires_at=clock.now + 60)
    assert made.key.startswith("mata_")
    (listed,) = (await accounts.keys()).keys
    assert not hasattr(listed, "key")
    assert made.key not in msgspec.json.encode(listed).decode()
    principal = (await snapshot()).owner_of(made.key)
    assert (principal.name, principal.kind, principal.scopes) == ("cams", "key", {"infer"})
    assert principal.id == f"key:{made.id}"
    clock.now += 61
    assert (await snapshot()).owner_of(made.key) is None
    with pytest.raises(InvalidParams, match="has passed already"):
        await accounts.add_key("late", ["infer"], expires_at=clock.now - 1)
    other = await accounts.add_key("other", ["infer"])
    await accounts.revoke_key(other.id)
    assert (await snapshot()).owner_of(other.key) is None
    with pytest.raises(NotFound):
        await accounts.revoke_key(other.id)


async def test_keys_of_users(accounts, snapshot):
    """A user's key acts as the user, never beyond the user's role, and ends with the user."""
    await accounts.add_user("root", "x", "admin")
    ada = await accounts.add_user("ada", "x", "viewer")
    made = await accounts.add_key("hers", ["models:read", "infer"], owner=ada.id)
    principal = (await snapshot()).owner_of(made.key)
    assert (principal.id, principal.scopes) == (ada.id, {"models:read"})
    await accounts.change_user("ada", disabled=True)
    assert (await snapshot()).owner_of(made.key) is None
    await accounts.remove_user("ada")
    assert (await accounts.keys()).keys == []


async def test_a_keys_rate(accounts, snapshot, clock):
    """A key that asks more often than it may waits; a change elsewhere does not reset the count."""
    made = await accounts.add_key("slow", ["infer"], rate=3)
    now = await snapshot()
    for _ in range(3):
        assert now.owner_of(made.key) is not None
    later = await snapshot()
    with pytest.raises(RateLimited, match="3 requests a minute") as told:
        later.owner_of(made.key)
    assert 0 < told.value.retry_after <= 60
    clock.now += 61
    assert later.owner_of(made.key) is not None
    clock.now -= 3600
    assert later.owner_of(made.key) is not None


async def test_tokens(accounts, snapshot, tokens, clock):
    """A token counts for its time; a new password, a disabled user or a revocation ends it."""
    await accounts.add_user("root", "x", "admin")
    ada = await accounts.add_user("ada", "x", "developer")
    token = tokens.make(ada.id, 1)
    principal = (await snapshot()).owner_of(token)
    assert (principal.id, principal.kind, principal.scopes) == (ada.id, "user", ROLES["developer"])
    clock.now += 901
    with pytest.raises(InvalidToken):
        (await snapshot()).owner_of(token)
    fresh = tokens.make(ada.id, 1)
    await accounts.revoke_token(tokens.read(fresh).id, clock.now + 900)
    await accounts.revoke_token(tokens.read(fresh).id, clock.now + 900)
    with pytest.raises(InvalidToken):
        (await snapshot()).owner_of(fresh)
    for change in ({"password": "new"}, {"disabled": True}):
        _, generation = next(x for x in (await accounts.read_all()).users if x[0].id == ada.id)
        token = tokens.make(ada.id, generation)
        assert (await snapshot()).owner_of(token) is not None
        await accounts.change_user("ada", **change)
        with pytest.raises(InvalidToken):
            (await snapshot()).owner_of(token)
    await accounts.remove_user("ada")
    again = await accounts.add_user("ada", "x", "admin")
    assert again.id != ada.id
    with pytest.raises(InvalidToken):
        (await snapshot()).owner_of(token)


async def test_a_token_that_is_revoked_by_several_at_once(accounts, clock):
    """Whoever was not the first has revoked it, too."""
    token = str(uuid.uuid4())
    await asyncio.gather(*(accounts.revoke_token(token, clock.now + 900) for _ in range(10)))
    assert (await accounts.read_all()).revoked == {token}


async def test_a_clock_that_is_set_back(accounts, snapshot, tokens, clock):
    """What was revoked stays so, also where the clock was an hour ahead for a while."""
    ada = await accounts.add_user("ada", "x", "developer")
    mine, other = (tokens.read(tokens.make(ada.id, 1)).id for _ in range(2))
    token = tokens.make(ada.id, 1)
    await accounts.revoke_token(tokens.read(token).id, clock.now + 900)
    clock.now += 3_600
    for each in (mine, other):
        await accounts.revoke_token(each, clock.now + 900)
    clock.now -= 3_600
    with pytest.raises(InvalidToken):
        (await snapshot()).owner_of(token)
    clock.now += 2 * 86_400
    await accounts.revoke_token(str(uuid.uuid4()), clock.now + 900)
    assert len((await accounts.read_all()).revoked) == 1


async def test_forged_tokens(accounts, snapshot, clock):
    """No signature, another's, another algorithm, another audience, another shape: 401."""
    ada = await accounts.add_user("ada", "x", "admin")
    good = {"sub": ada.id, "gen": 1, "aud": AUDIENCE, "jti": "1", "exp": clock.now + 900}
    forged = [
        jwt.encode(good, None, "none"),
        jwt.encode(good, "another secret that is also long enough", ALGORITHM),
        jwt.encode(good, SECRET * 2, "HS512"),
        jwt.encode({**good, "aud": "others"}, SECRET, ALGORITHM),
        jwt.encode({**good, "exp": clock.now - 1}, SECRET, ALGORITHM),
        jwt.encode({**good, "gen": "one"}, SECRET, ALGORITHM),
        jwt.encode({**good, "gen": 2}, SECRET, ALGORITHM),
        *(
            jwt.encode({k: v for k, v in good.items() if k != name}, SECRET, ALGORITHM)
            for name in good
        ),
        "eyJ.eyJ.x",
    ]
    now = await snapshot()
    assert now.owner_of(jwt.encode(good, SECRET, ALGORITHM)) is not None
    for token in forged:
        with pytest.raises(InvalidToken):
            now.owner_of(token)


async def test_what_is_not_ours(snapshot):
    """Another's key is left to others to judge."""
    now = await snapshot()
    for secret in ("", "some-other-key", "mata_unknown", "a.b.c"):
        assert now.owner_of(secret) is None


async def test_a_secret_of_the_database(accounts):
    """Two servers on one database sign with one secret."""
    assert await accounts.secret("jwt") == await accounts.secret("jwt")
    assert await accounts.secret("other") != await accounts.secret("jwt")


def test_failed_log_ins_are_slowed_down(clock):
    """The waits double up to a minute, by name and address, and end with a success."""
    delays = LoginDelays(clock)
    for _ in range(FREE_FAILURES):
        delays.check("ada", "10.0.0.1")
        delays.count_failure("ada", "10.0.0.1")
    waits = []
    for _ in range(8):
        with pytest.raises(TooManyAttempts) as told:
            delays.check("ada", "10.0.0.1")
        waits.append(told.value.retry_after)
        clock.now += told.value.retry_after
        delays.check("ada", "10.0.0.1")
        share = delays.count_failure("ada", "10.0.0.1")
    assert waits == pytest.approx([1, 2, 4, 8, 16, 32, 60, 60], abs=1e-3)
    delays.check("ada", "10.0.0.2")
    delays.check("bob", "10.0.0.1")
    delays.clear("ada", "10.0.0.1", share)
    delays.check("ada", "10.0.0.1")


def test_delays_are_bounded(clock):
    """A million names fill no memory."""
    delays = LoginDelays(clock)
    for number in range(11_000):
        delays.count_failure(str(number), "10.0.0.1")
    assert len(delays._failures) == 10_000


class CountedHasher(PasswordHasher):
    """Counts the checks, each of which takes as long as any other."""

    checks = 0

    def verify(self, known, password):
        self.checks += 1
        return super().verify(known, password)


async def test_equal_time(database):
    """Whatever is wrong about a log-in, one hash is computed for it."""
    hasher = CountedHasher(time_cost=1, memory_cost=8, parallelism=1)
    accounts = Accounts(database, Passwords(hasher))
    await accounts.add_user("root", "x", "admin")
    await accounts.add_user("bob", "x", "viewer")
    await accounts.change_user("bob", disabled=True)
    await accounts.add_user("first", hashlib.sha256(b"x").hexdigest(), "admin", hashed=True)
    for name in ("root", "bob", "first", "nobody", "no name", "a\0b"):
        before = hasher.checks
        assert await accounts.check_password(name, "wrong") is None
        assert hasher.checks == before + 1, name
