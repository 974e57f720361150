"""``/api/users``: the users of accounts with their applications."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from mataserver import ANYBODY, Body, InvalidParams, NotFound, Route, check_query
from mataserver_accounts import records as accounts
from mataserver_accounts.records import UserName
from mataserver_database import PARAMETERS, finish, page_of
from mataserver_fleet.handlers import Handlers
from mataserver_fleet.pages import (
    BODY_ERRORS,
    IF_MATCH,
    JSON,
    MAX_BODY,
    FleetProblem,
    Status,
    UserVersion,
    caller,
    expected,
    tagged,
)
from mataserver_fleet.permissions import Forbidden, Grants, apps_of
from mataserver_fleet.store import check_tag

if TYPE_CHECKING:
    from aiohttp import web

    from mataserver_accounts.people import People
    from mataserver_accounts.records import User
    from mataserver_accounts.users import Check
    from mataserver_database import Connection
    from mataserver_fleet import pages
    from mataserver_fleet.permissions import LockUser

Password = Annotated[str, Meta(min_length=1, max_length=1024)]
Role = Literal["admin", "developer", "viewer"]
_MOST_TAGS, _LONGEST_TAG = 64, 64
_WORD = f"[^,]{{0,{_LONGEST_TAG}}}"
_WORDS = f"^{_WORD}(,{_WORD}){{0,{_MOST_TAGS - 1}}}$"
Tags = Annotated[
    str,
    Meta(
        max_length=4096,
        description="words with commas between, without control characters",
        extra_json_schema={"pattern": _WORDS},
    ),
]


class NewUser(Struct, kw_only=True, forbid_unknown_fields=True):
    """``POST /api/users``. ``tags`` are words with commas between."""

    name: UserName
    password: Password
    role: Role = "viewer"
    tags: Tags = ""


class UserChange(Struct, kw_only=True, forbid_unknown_fields=True):
    """``PATCH /api/users/{identity}``: what is left out stays.

    Who is no administrator changes their own password, with the one of before as ``old_password``.
    """

    password: Password | UnsetType = UNSET
    old_password: Password | UnsetType = UNSET
    role: Role | UnsetType = UNSET
    tags: Tags | UnsetType = UNSET
    version: UserVersion = UNSET


class UserView(Struct, kw_only=True):
    """A user and the applications that they are authorised for. Passwords are never shown."""

    id: str
    name: str
    role: str
    tags: str
    apps: list[str]


class ChangedUser(UserView, kw_only=True):
    """A user that was made or changed."""

    status: str = "ok"


class UserList(Struct, kw_only=True):
    """A page of the users, and how many there are; ``next_cursor`` gives the next page."""

    users: list[UserView]
    total: int
    next_cursor: str | UnsetType = UNSET


class AppNames(Struct, kw_only=True):
    """The names of the applications that a user is authorised for."""

    apps: list[str]


class UserHandlers(Handlers):
    """The routes of users."""

    def routes(self) -> list[Route]:
        """Return the routes."""
        path, app = "/api/users/{identity}", "/api/users/{identity}/apps/{app}"
        one, changed = (Body(JSON, UserView),), (Body(JSON, ChangedUser),)
        body, done = BODY_ERRORS, (Body(JSON, Status),)
        common: dict[str, Any] = {"tag": "fleet", "problem": FleetProblem, "max_body": MAX_BODY}
        read, admin = {**common, "needs": ANYBODY}, {**common, "needs": "admin"}
        bare: dict[str, Any] = {
            "response": done,
            "headers": IF_MATCH,
            "errors": (404, 409, 412, 422, 503, 507),
        }
        user = {"name": "ada", "password": "correct horse", "role": "developer", "tags": "night"}
        return [
            Route("GET", "/api/users", self.index, "List the users; oneself, unless an admin asks",
                  parameters=PARAMETERS, response=(Body(JSON, UserList),), errors=(422, 503),
                  **read),
            Route("POST", "/api/users", self.add, "Make a user", status=201, response=changed,
                  request=(Body(JSON, NewUser, user),), errors=body, **admin),
            Route("GET", path, self.one, "One user, by id or name", response=one,
                  errors=(404, 503), **read),
            Route("PATCH", path, self.change, "Change a user", response=changed,
                  request=(Body(JSON, UserChange, {"role": "developer"}),), headers=IF_MATCH,
                  errors=(*body, 404, 412, 429), **read),
            Route("DELETE", path, self.remove, "Remove a user", **bare, **admin),
            Route("GET", f"{path}/apps", self.apps, "The applications of a user",
                  response=(Body(JSON, AppNames),), errors=(404, 422, 503), **read),
            Route("POST", f"{app}/auth", self.grant, "Authorise a user for an application",
                  **bare, **admin),
            Route("POST", f"{app}/unauth", self.revoke,
                  "Withdraw a user's authorisation for an application", **bare, **admin),
        ]  # fmt: skip

    @property
    def _people(self) -> People:
        people: People = self._ctx.peer("accounts").people
        return people

    @property
    def _grants(self) -> Grants:
        return Grants(self._components.store)

    async def index(self, request: web.Request) -> web.Response:
        """Answer a part of the users."""
        page, who = page_of(request), caller(request)
        if not who.may("admin"):
            own = [await self._people.one(who.id)] if who.kind == "user" else []
            return self._ctx.http.respond(UserList(users=await self._shown(own), total=len(own)))
        found = await self._people.list(page)
        users = await self._shown(found.users)
        listed = UserList(users=users, total=found.total, next_cursor=found.next_cursor)
        return self._ctx.http.respond(listed)

    async def add(self, request: web.Request) -> web.Response:
        """Make a user."""
        async with self._ctx.http.read_json(request, NewUser) as new:
            tags = _tags(new.tags)
            user = await self._people.add(new.name, new.password, new.role, tags)
        self._note(request, "made the user", user.name)
        return await self._answer(user.id, ChangedUser, 201)

    async def one(self, request: web.Request) -> web.Response:
        """Answer one user."""
        return await self._answer((await self._visible(request)).id, UserView)

    async def change(self, request: web.Request) -> web.Response:
        """Change a user: an administrator anything, others their own password."""
        user, who = await self._visible(request), caller(request)
        async with self._ctx.http.read_json(request, UserChange) as requested:
            if not who.may("admin"):
                await self._check_own(request, user, requested)
            changed = await self._people.change(
                user.id,
                check=self._unchanged(user, expected(request, requested.version)),
                password=requested.password or None,
                role=requested.role or None,
                tags=None if requested.tags is UNSET else _tags(requested.tags),
            )
        self._note(request, "changed the user", changed.name)
        return await self._answer(changed.id, ChangedUser)

    async def remove(self, request: web.Request) -> web.Response:
        """Remove a user."""
        user, tags = await self._people.to_remove(request.match_info["identity"]), expected(request)
        await self._people.remove(user, self._unchanged(user, tags), asked_by=caller(request))
        self._note(request, "removed the user", user.name)
        return self._ctx.http.respond(Status())

    async def apps(self, request: web.Request) -> web.Response:
        """Answer the applications of a user."""
        check_query(request, ())
        user = await self._visible(request)
        _, revision = await self._people.tagged(user.id)
        apps = (await finish(self._grants.apps([user.id])))[user.id]
        return tagged(self._ctx, AppNames(apps=apps), _tag(revision, apps))

    async def grant(self, request: web.Request) -> web.Response:
        """Authorise a user for an application."""
        user = await self._people.one(request.match_info["identity"])
        app = request.match_info["app"]
        state = await finish(self._grants.grant(user.id, app, self._held(request, user)))
        self._note(request, f"authorised for {app!r} the user", user.name)
        return tagged(self._ctx, Status(), _tag(*state))

    async def revoke(self, request: web.Request) -> web.Response:
        """Withdraw a user's authorisation for an application."""
        user = await self._people.one(request.match_info["identity"])
        app = request.match_info["app"]
        state = await finish(self._grants.revoke(user.id, app, self._held(request, user)))
        self._note(request, f"no longer authorised for {app!r} the user", user.name)
        return tagged(self._ctx, Status(), _tag(*state))

    def _unchanged(self, user: User, tags: pages.Tags | None) -> Check:
        """Return what raises as ``check_tag`` for a state of a user that is not expected.

        It reads the applications by the connection that changes the user: neither can change
        between that and its commit.
        """

        async def check(revision: str, connection: Connection) -> None:
            check_tag(_tag(revision, await apps_of(connection, user.id)), tags)

        return check

    def _held(self, request: web.Request, user: User) -> LockUser:
        """Return what holds a user for a transaction, and raises as ``_unchanged``."""
        check = self._unchanged(user, expected(request))

        async def hold(connection: Connection) -> str:
            revision = await self._people.hold(connection, user.id)
            await check(revision, connection)
            return revision

        return hold

    async def _visible(self, request: web.Request) -> User:
        """Return the user of a path. Raises ``NotFound`` also for one that is not to be seen."""
        identity, who = request.match_info["identity"], caller(request)
        user = await self._people.one(identity)
        if user.id != who.id and not who.may("admin"):
            raise NotFound(f"User not found: {identity[:64]}")
        return user

    async def _check_own(self, request: web.Request, user: User, requested: UserChange) -> None:
        """Raise ``Forbidden`` for what is an administrator's, 401 for a wrong password."""
        if caller(request).kind != "user":
            raise Forbidden("A key cannot change users: log in")
        if requested.role is not UNSET or requested.tags is not UNSET:
            raise Forbidden("Only an administrator can change a role or tags")
        if requested.old_password is UNSET:
            raise InvalidParams("old_password: field is required")
        address = self._ctx.http.address(request)
        await self._people.check(user.name, requested.old_password, address)

    async def _shown(self, users: list[User]) -> list[UserView]:
        apps = await finish(self._grants.apps([user.id for user in users]))
        return [UserView(**_fields(user, apps)) for user in users]

    async def _answer(self, user: str, kind: type[UserView], status: int = 200) -> web.Response:
        """Answer with a user by their id. The tag is made of what is shown."""
        found, revision = await self._people.tagged(user)
        apps = await finish(self._grants.apps([user]))
        tag = _tag(revision, apps[user])
        return tagged(self._ctx, kind(**_fields(found, apps)), tag, status)


def _fields(user: User, apps: dict[str, list[str]]) -> dict[str, Any]:
    plain = {"id": user.id, "name": user.name, "role": user.role}
    return {**plain, "tags": ",".join(user.tags), "apps": apps[user.id]}


def _tag(revision: str, apps: list[str]) -> str:
    """Return what is another text after each change of a user, and of what they may change."""
    return f"{revision}.{hashlib.sha256(msgspec.json.encode(apps)).hexdigest()[:8]}"


def _tags(text: str) -> list[str]:
    """Return the words of a text. Raises ``InvalidParams`` for what accounts take as no tags."""
    found = [word.strip() for word in text.split(",") if word.strip()]
    try:
        return msgspec.convert(found, accounts.Tags)
    except msgspec.ValidationError:
        raise InvalidParams(
            f"tags: {_MOST_TAGS} words of {_LONGEST_TAG} letters at most, no control characters"
        ) from None
