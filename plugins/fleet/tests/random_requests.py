"""Random requests to the routes of accounts and of the fleet, good ones and bad."""

from __future__ import annotations

import re
from typing import NamedTuple
from urllib.parse import quote

from onnx_files import adding
from test_models import form

_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
NAMES = ["a", "b", "a-b", "z9", "A", "m.1"]
ODD = ["x" * 65, "ä", "a\0b", "日本", "2147483648", "-1", "9" * 12, "a b", "%00", "a'b", "NULL"]
NUMBERS = [1, 2, 0, -1, 2**31 - 1, 2**31, 2**53, 2**63 - 1, 2**63, 1.5, True, None, "7", "x"]
PAGES = ["", "?limit=2", "?limit=1&offset=1", "?limit=2&cursor=@cursor", "?offset=-1", "?cursor=x"]
PAGES += ["?limit=1&offset=2147483648", "?offset=99999999999999999999", "?limit=1000"]
LISTS = ["tritons", "models", "apps", "consumers", "users"]


_TIMES = {"create_at", "update_at", "created_at", "expires_at"}


class Request(NamedTuple):
    """A request. ``@3`` in its path is the third id, ``@cursor`` the last cursor, of a server."""

    method: str
    path: str
    body: object = None
    files: object = None
    secret: str = ""
    is_tagged: bool = False


def next_request(rng):
    """Return a request of a random generator."""
    secret = rng.choices(["", "token", "key"], [0.9, 0.05, 0.05])[0]
    made = rng.choice(_KINDS)(rng)
    return made._replace(secret=secret, is_tagged=rng.random() < 0.1)


def _name(rng):
    return rng.choice(NAMES if rng.random() < 0.93 else ODD)


def _identity(rng):
    """Return a path's part: a name, or the id of a thing that has one of letters."""
    return quote(_name(rng), safe="%") if rng.random() < 0.93 else f"@{rng.randrange(30)}"


def _number(rng):
    return rng.choice(NUMBERS) if rng.random() < 0.5 else rng.randrange(1, 50)


def _model(rng):
    path, name = f"/api/models/{_identity(rng)}", _name(rng)
    file = {rng.choice(["model.onnx", "2/model.onnx"]): adding(rng.randrange(4))}
    return rng.choice(
        [
            Request("POST", "/api/models", None, (file, {"name": name, "description": name})),
            Request("POST", f"{path}/versions", None, (file, {})),
            Request("PATCH", path, {"description": name * rng.choice([1, 200])}),
            Request("DELETE", f"{path}/versions/{rng.choice([1, 2, 0, 10**11])}"),
            Request("DELETE", path + rng.choice(["", "?force=true"])),
            Request("GET", path),
        ]
    )


def _app(rng):
    path, host = f"/api/apps/{_identity(rng)}", rng.choice(["a.example", "B.example", _name(rng)])
    return rng.choice(
        [
            Request("POST", "/api/apps", {"name": _name(rng), "host": host}),
            Request("POST", "/api/apps", {"name": _name(rng), "retries": _number(rng)}),
            Request("PATCH", path, {rng.choice(["name", "host", "ip"]): _name(rng)}),
            Request("DELETE", path),
            Request("GET", path),
        ]
    )


def _route(rng):
    path = f"/api/apps/{_identity(rng)}/routes/{quote(_name(rng), safe='%')}"
    public = rng.choice(["/x", "/x/", "/v2/models/a", "/ä", "//", "/x y"])
    return rng.choice(
        [
            Request("POST", path),
            Request("POST", path, {"paths": [public]}),
            Request("POST", path, {"weights": {str(_number(rng)): _number(rng)}}),
            Request("PATCH", path, {"mirror": _number(rng)}),
            Request("DELETE", path),
        ]
    )


def _consumer(rng):
    path, limit = f"/api/consumers/{_identity(rng)}", rng.choice(["rate", "quota"])
    link = f"/api/apps/{_identity(rng)}/consumers/{quote(_name(rng), safe='%')}"
    return rng.choice(
        [
            Request("POST", "/api/consumers", {"name": _name(rng), limit: _number(rng)}),
            Request("PATCH", path, {limit: _number(rng)}),
            Request("POST", f"{path}/key"),
            Request("DELETE", path),
            Request("POST", link, rng.choice([None, {"tags": _name(rng)}])),
            Request("DELETE", link),
        ]
    )


def _user(rng):
    path, given = f"/v1/users/{_identity(rng)}", {"name": _name(rng), "password": "correct horse"}
    grant = f"/api/users/{_identity(rng)}/apps/{_identity(rng)}"
    log_in = {"username": _name(rng), "password": rng.choice(["correct horse", "bad"])}
    return rng.choice(
        [
            Request(
                "POST", "/v1/users", {**given, "role": rng.choice(["admin", "viewer", "boss"])}
            ),
            Request("PATCH", path, {"tags": [_name(rng)], "disabled": rng.random() < 0.5}),
            Request("DELETE", path),
            Request("POST", f"{grant}/{rng.choice(['auth', 'unauth'])}"),
            Request("POST", "/auth/token", log_in),
        ]
    )


def _key(rng):
    whose = rng.choice([{"standalone": True}, {"owner": _name(rng)}, {"rate": _number(rng)}])
    until = {"expires_at": rng.choice([1, 2**40, 1e300, 2**63])} if rng.random() < 0.3 else {}
    made = {"name": _name(rng), "scopes": ["models:read"], **whose, **until}
    path = f"/v1/keys/@{rng.randrange(30)}"
    return rng.choice(
        [Request("POST", "/v1/keys", made), Request("DELETE", path), Request("GET", path)]
    )


def _list(rng):
    path = rng.choice([*(f"/api/{each}" for each in LISTS), "/v1/users", "/v1/keys"])
    return Request("GET", path + rng.choice(PAGES))


_KINDS = [_model, _app, _route, _consumer, _user, _key, _list, _list]


class Asker:
    """Sends requests to a server; its answers are told without what is random in them."""

    def __init__(self, client):
        self._client = client
        self._ids, self._cursors, self._tags = [], ["x"], []
        self._secrets = {"token": [], "key": []}

    async def ask(self, request):
        """Send a request; return status and answer."""
        path = re.sub(r"@(\d+)", self._id, request.path).replace("@cursor", self._cursors[-1])
        secrets = self._secrets.get(request.secret) or [None]
        headers = {"If-Match": self._tags[-1]} if request.is_tagged and self._tags else {}
        sent = {"json": request.body}
        if request.files is not None:
            files, fields = request.files
            sent = {"data": form(files, **fields)}
        status, answer = await self._client.ask(
            request.method, path, secrets[-1], headers=headers, **sent
        )
        if "ETag" in self._client.headers:
            self._tags.append(self._client.headers["ETag"])
        return status, self._plain(answer)

    def _id(self, match):
        return self._ids[int(match[1]) % len(self._ids)] if self._ids else "none"

    def _plain(self, value, field=""):
        """Return an answer with ids by their order, and without secrets, times and ports."""
        if isinstance(value, dict):
            return {name: self._plain(each, name) for name, each in value.items()}
        if isinstance(value, list):
            return [self._plain(each) for each in value]
        if field == "next_cursor":
            self._cursors.append(value)
        elif field == "access_token":
            self._secrets["token"].append(value)
        elif field == "key":
            self._secrets["key"].append(value)
        elif isinstance(value, str) and field != "port" and not field.endswith("_at"):
            return _ID.sub(self._number, re.sub(r":\d+/", "/", value))
        # PostgreSQL leaves out the numbers of what could not be added.
        elif isinstance(value, bool) or value is None or field not in {"id", "port", *_TIMES}:
            return value
        return field

    def _number(self, match):
        if match[0] not in self._ids:
            self._ids.append(match[0])
        return f"<{self._ids.index(match[0])}>"
