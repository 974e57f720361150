"""``/auth/token``: a name and a password become a token, and a token is given up."""

from __future__ import annotations

import collections
import contextlib
from typing import TYPE_CHECKING, Annotated
from urllib.parse import parse_qsl

from aiohttp import web
from msgspec import Meta, Struct

from mataserver import (
    ANYBODY,
    BadRequest,
    Body,
    InvalidParams,
    MataError,
    Route,
    content_type,
)
from mataserver_accounts.login_delays import LoginDelays, TooManyAttempts, client_network
from mataserver_accounts.pages import JSON, MAX_BODY, Forbidden, caller
from mataserver_accounts.records import Password
from mataserver_database import finish

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mataserver import Context
    from mataserver_accounts.directory import Directory
    from mataserver_accounts.records import User

FORM = "application/x-www-form-urlencoded"
MAX_CONCURRENT = 128
MAX_CONCURRENT_OF_ACTIVE = 32
MAX_CONCURRENT_OF_ADDRESS = 4
"""Limits on log-ins in flight: in all; in all for an address that has one already; of one address.

So a few flooding addresses leave room for log-ins from others.
"""
_FIELDS = 16
_Text = Annotated[str, Meta(max_length=1024)]


class Unauthorized(MataError):
    """401: no such user, another password, or a disabled user; the answer does not say which."""

    status = 401


class LogIn(Struct, frozen=True):
    """A name and a password."""

    username: _Text
    password: _Text


class Token(Struct, frozen=True, kw_only=True):
    """A token, as RFC 6749 answers one; ``expires_in`` in seconds."""

    access_token: str
    token_type: str = "bearer"  # noqa: S105 - a word of the protocol
    expires_in: int


class PasswordChange(Struct, frozen=True, forbid_unknown_fields=True):
    """``PUT /v1/me/password``."""

    current: Password
    new: Password


class LoginRoutes:
    """The routes of log-ins and of what is logged in with."""

    def __init__(self, ctx: Context, directory: Directory) -> None:
        self._ctx = ctx
        self._directory = directory
        self._delays = LoginDelays()
        self._checking: collections.Counter[str] = collections.Counter()

    def routes(self) -> list[Route]:
        """Return the routes."""
        example = {"username": "ada", "password": "correct horse"}
        bodies = (Body(JSON, LogIn, example), Body(FORM, LogIn))
        change = {"current": "correct horse", "new": "battery staple"}
        errors = (400, 401, 408, 413, 415, 422, 429, 503)
        return [
            Route("POST", "/auth/token", self.begin, "Log in", "accounts", request=bodies,
                  response=(Body(JSON, Token),), errors=errors, public=True, max_body=MAX_BODY),
            Route("DELETE", "/auth/token", self.end, "Log out: revoke the token that asks this",
                  "accounts", status=204, errors=(422, 503, 507), needs=ANYBODY),
            Route("PUT", "/v1/me/password", self.change, "Give oneself another password",
                  "accounts", request=(Body(JSON, PasswordChange, change),),
                  response=(Body(JSON, Token),), errors=(400, 408, 413, 415, 422, 429, 503, 507),
                  needs=ANYBODY, max_body=MAX_BODY),
        ]  # fmt: skip

    async def begin(self, request: web.Request) -> web.Response:
        """Answer a token."""
        asked = await self._read(request)
        address = self._ctx.http.address(request)
        user, generation = await self.check(asked.username, asked.password, address)
        return self._token_response(user, generation)

    async def change(self, request: web.Request) -> web.Response:
        """Give who asks another password; answer a fresh token: those of before end.

        Who has a token or a browser alone must not be able to keep the account's owner out.
        """
        principal = caller(request)
        if principal.kind != "user":
            raise Forbidden("Only a user who is logged in has a password to change")
        async with self._ctx.http.read_json(request, PasswordChange) as asked:
            address = self._ctx.http.address(request)
            try:
                user, generation = await self.check(principal.name, asked.current, address)
            except Unauthorized:
                raise Forbidden("The current password is wrong") from None
            accounts = self._directory.accounts
            await self._directory.change(accounts.change_user(user.id, password=asked.new))
        self._ctx.log.info("%s (%s) has another password", user.name, user.id)
        return self._token_response(user, generation + 1)

    def _token_response(self, user: User, generation: int) -> web.Response:
        response = self._ctx.http.respond(self.token(user, generation))
        response.headers["Cache-Control"] = "no-store"
        return response

    async def end(self, request: web.Request) -> web.Response:
        """Revoke the token that the request shows."""
        scheme, _, secret = request.headers.get("Authorization", "").partition(" ")
        shown = secret.strip() if scheme.lower() == "bearer" else ""
        if not (
            await self.revoke(shown) or await self.revoke(request.headers.get("X-API-Key", ""))
        ):
            raise InvalidParams(
                "Only a token can be revoked here: this request used something else"
            )
        return web.Response(status=204)

    async def check(self, name: str, password: str, address: str) -> tuple[User, int]:
        """Return the user of a name and a password, and their generation.

        Raises ``Unauthorized``, or ``TooManyAttempts`` of an address.
        """
        address = client_network(address)
        with self._limit_concurrency(address):
            self._delays.check(name, address)
            share = self._delays.count_failure(name, address)  # until the password says otherwise
            check = self._directory.accounts.check_password(name, password)
            try:
                found = await finish(check)  # a client that leaves must not make a guess free
            except Exception:
                self._delays.take_back(name, address, share)
                raise
        if found is None:
            raise Unauthorized("Invalid credentials")
        self._delays.clear(name, address, share)
        return found

    def token(self, user: User, generation: int) -> Token:
        """Return a token for a user."""
        tokens = self._directory.tokens
        return Token(access_token=tokens.make(user.id, generation), expires_in=tokens.seconds)

    async def revoke(self, token: str) -> bool:
        """Revoke a token; whether it is one of ours that counted."""
        claims = self._directory.tokens.read(token)
        if claims is None:
            return False
        revoke = self._directory.accounts.revoke_token
        await self._directory.revoke(
            claims.id, lambda: revoke(claims.id, claims.until), f"the user {claims.user}"
        )
        return True

    async def _read(self, request: web.Request) -> LogIn:
        if content_type(request) != FORM:
            async with self._ctx.http.read_json(request, LogIn) as asked:
                return asked
        async with self._ctx.http.read_body(request) as data:
            return _parse_form(data)

    @contextlib.contextmanager
    def _limit_concurrency(self, address: str) -> Iterator[None]:
        """Bound the log-ins under way. Raises ``TooManyAttempts``."""
        own, every = self._checking[address], self._checking.total()
        most = MAX_CONCURRENT_OF_ACTIVE if own else MAX_CONCURRENT
        if every >= most or own >= MAX_CONCURRENT_OF_ADDRESS:
            raise TooManyAttempts("Too many log-ins at once: try again", retry_after=1)
        self._checking[address] += 1
        try:
            yield
        finally:
            self._checking[address] -= 1
            if not self._checking[address]:
                del self._checking[address]


def _parse_form(data: bytes) -> LogIn:
    """Read a form of OAuth2's password grant; other fields than the two are of no use here."""
    try:
        text = data.decode("ascii")
        pairs = parse_qsl(text, keep_blank_values=True, max_num_fields=_FIELDS, errors="strict")
    except ValueError:
        raise BadRequest("The form cannot be read") from None
    fields = dict(pairs)
    if len(fields) < len(pairs):
        raise InvalidParams("A field is given twice")
    for name in LogIn.__struct_fields__:
        if name not in fields:
            raise InvalidParams(f"{name}: field is required")
        if len(fields[name]) > 1024:
            raise InvalidParams(f"{name}: longer than 1024 characters")
    return LogIn(fields["username"], fields["password"])
