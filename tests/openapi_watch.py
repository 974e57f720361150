"""Every answer that a test's aiohttp client gets is held against the server's OpenAPI document.

Its status, type, headers, and JSON or MessagePack must be what the document says. A test that makes
a server answer what its document does not say (a plugin that lies, say) is marked
``undocumented("why")``.
"""

from __future__ import annotations

import asyncio
import functools
import json
import re
from typing import TYPE_CHECKING, Any

import aiohttp
import jsonschema_rs
import msgspec
import pytest
from aiohttp.base_protocol import BaseProtocol
from aiohttp.streams import StreamReader

from mataserver.app import running

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mataserver.app.server import ComposedServer

# What HTTP itself says of an answer, or a browser is told; all else is the API's and documented.
_PLAIN = re.compile(
    r"Accept-|Access-Control-|Allow$|Cache-|Connection$|Content-|Cross-Origin-|Date$|ETag$"
    r"|Keep-Alive$|Last-Modified$|Location$|Permissions-|Referrer-|Server$|Set-Cookie$|Trailer$"
    r"|Transfer-|Upgrade$|Vary$|WWW-Authenticate$|X-Accel-Buffering$|X-Content-Type-Options$"
    r"|X-Frame-Options$",
    re.IGNORECASE,
)
_REFERENCE = re.compile(r'"#/components/schemas/([^"]+)"')
_EVERY = ("X-Request-Id", "Server-Timing")
_WITHOUT_ROUTE = {400, 401, 403, 404, 405, 413, 417, 429, 503}
_DOCUMENTED = (
    *("request", "response", "also", "errors", "status", "parameters", "headers", "problem"),
    *("answer_headers", "error_headers"),
    *("documented", "public", "needs", "optional", "summary"),
)
_WHOLE = 1 << 20
"""Bytes of an answer that is read at once; a longer one, or one without a length, is not."""
_READ: dict[str, Callable[[bytes], Any]] = {
    "application/json": json.loads,
    # One schema is of both forms: what is base64 in JSON is bytes here.
    "application/msgpack": lambda body: msgspec.to_builtins(msgspec.msgpack.decode(body)),
}


class Document:
    """An OpenAPI document: operations by path, and validators of their schemas."""

    def __init__(self, encoded: bytes) -> None:
        document = json.loads(encoded)
        self.components: dict[str, Any] = document["components"]
        self._paths = sorted(
            ((path.count("{"), -len(path), path, methods)
            for path, methods in document["paths"].items()),
            key=lambda each: each[:3],
        )  # fmt: skip
        self._validators: dict[str, jsonschema_rs.Draft202012Validator] = {}

    @functools.lru_cache(maxsize=1024)  # noqa: B019 - documents live as long as the tests
    def operations(self, path: str) -> tuple[str, dict[str, Any]]:
        """Return template and operations of a path: none if no template fits."""
        for variable in ("[^/]+", ".+"):  # a model's name may have slashes
            for _, _, template, methods in self._paths:
                pattern = re.sub(r"\\{\w+\\}", variable, re.escape(template))
                if re.fullmatch(pattern, path):
                    return template, methods
        return path, {}

    def _whole(self, schema: dict[str, Any]) -> dict[str, Any]:
        """Return a schema with the components that it refers to: all of them take 25 ms to read."""
        needed, waiting = {}, [schema]
        while waiting:
            for name in _REFERENCE.findall(json.dumps(waiting.pop())):
                if name not in needed:
                    needed[name] = self.components["schemas"][name]
                    waiting.append(needed[name])
        return {**schema, "components": {"schemas": needed}}

    def faults(self, schema: dict[str, Any], value: Any) -> Iterator[str]:
        """Yield what a value has that its schema does not allow."""
        key = json.dumps(schema, sort_keys=True)
        if key not in self._validators:
            self._validators[key] = jsonschema_rs.Draft202012Validator(self._whole(schema))
        for error in self._validators[key].iter_errors(value):
            yield f"{'/'.join(map(str, error.instance_path))}: {error.message[:300]}"


class Watch:
    """The servers of this process by port, and what was wrong with answers of the current test."""

    def __init__(self) -> None:
        self.faults: list[str] = []
        self._servers: dict[int, ComposedServer] = {}
        self._documents: dict[str, Document] = {}

    def add(self, composed: ComposedServer, port: int) -> None:
        """Hold the answers from a port against a server's document."""
        self._servers[port] = composed

    def remove(self, composed: ComposedServer) -> None:
        """Forget a server that ended."""
        self._servers = {k: v for k, v in self._servers.items() if v is not composed}

    def _document(self, server: ComposedServer) -> Document:
        # Most tests' servers have the same routes, and a document takes 15 ms and more to build.
        routes = [(each.method, each.path, *(getattr(each, name) for name in _DOCUMENTED))
                  for each in server.table.routes]  # fmt: skip
        key = repr((routes, server.plugins.own_result_types, bool(server.gate.authenticators)))
        if key not in self._documents:
            self._documents[key] = Document(server.openapi_document())
        return self._documents[key]

    async def look(self, response: aiohttp.ClientResponse) -> None:
        """Compare an answer with the document of the server that it is of, if that is known."""
        server = self._servers.get(response.url.port or 0)
        if server is None or response.url.host != "127.0.0.1" or response.status == 101:
            return
        if server.table.claims and response.request_info.headers["Host"] != response.url.authority:
            return  # by the name of an application, which a service answers for
        document = self._document(server)
        template, operations = document.operations(response.url.path)
        asked = f"{response.method} {template}: {response.status}"
        method = response.method.lower()
        if method == "head" and method not in operations:
            method = "get"
        self.faults += [f"{asked}: no {name}" for name in _EVERY if name not in response.headers]
        if method not in operations:
            if response.status not in _WITHOUT_ROUTE and not _is_hidden(server, response):
                self.faults.append(f"{asked}: the document has no such operation")
            return
        responses = operations[method]["responses"]
        answer = responses.get(str(response.status))
        if answer is None and response.status in {417, 500}:
            # Any route may refuse ``Expect``, or fail, as where a plugin does that is asked always:
            # in the form of its errors, which every route has for 400.
            answer = responses.get("400")
        if answer is None:
            self.faults.append(f"{asked}: undocumented status, {await _start(response)!r}")
            return
        if method == "get" and operations[method]["security"] and _is_storable(response):
            self.faults.append(f"{asked}: no Cache-Control, and a cache may keep it for others")
        found = [*_headers(document, answer, response), *await _body(document, answer, response)]
        self.faults += [f"{asked}: {fault}" for fault in found]


def _is_storable(response: aiohttp.ClientResponse) -> bool:
    """Whether a cache that many share may store an answer (RFC 9111, section 3)."""
    told = response.headers.get("Cache-Control", "")
    return not {"no-store", "private"} & {each.strip() for each in told.split(",")}


def _is_hidden(server: ComposedServer, response: aiohttp.ClientResponse) -> bool:
    """Whether a route is served that is not to be in the document, or claimed by a service."""
    if response.method == "OPTIONS":  # a browser asks before it sends a request
        return True
    methods = {response.method, "GET" if response.method == "HEAD" else response.method}
    if server.table.claims and response.url.path.startswith("/gateway/"):
        return True
    for route in server.table.routes:
        if route.method in methods and not (route.documented and route.summary):
            pattern = re.sub(r"\{\w+(?::([^{}]*))?\}", lambda each: each[1] or "[^/]+", route.path)
            if re.fullmatch(pattern, response.url.path):
                return True
    return False


def _headers(document: Document, answer: dict[str, Any], response: Any) -> Iterator[str]:
    documented = {name.lower(): header for name, header in answer.get("headers", {}).items()}
    for name, text in response.headers.items():
        header = documented.get(name.lower())
        if header is None:
            if not _PLAIN.match(name):
                yield f"undocumented header {name}: {text[:80]}"
            continue
        if "$ref" in header:
            header = document.components["headers"][header["$ref"].rpartition("/")[2]]
        schema = header["schema"]
        value = int(text) if schema["type"] == "integer" and text.isdigit() else text
        yield from (f"header {name}{fault}" for fault in document.faults(schema, value))


async def _body(document: Document, answer: dict[str, Any], response: Any) -> list[str]:
    content = answer.get("content", {})
    length = response.content_length
    kind = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if length == 0 or (not length and not (kind and content)):
        return []
    if kind not in content and "*/*" not in content:
        return [f"undocumented type {kind}, of {sorted(content)}"]
    whole = length is not None and length <= _WHOLE and response.method != "HEAD"
    if kind not in _READ or kind not in content or not whole:
        return []
    try:
        value = _READ[kind](await _peek(response))
    except (ValueError, msgspec.DecodeError):
        return [f"no {kind}"]
    return list(document.faults(content[kind]["schema"], value))[:4]


async def _start(response: aiohttp.ClientResponse) -> bytes:
    return (await _peek(response))[:200] if response.content_length else b""


async def _peek(response: aiohttp.ClientResponse) -> bytes:
    """Return the body, which may then be read once more: as a whole, or piece by piece."""
    body = await response.read()
    again = StreamReader(BaseProtocol(asyncio.get_running_loop()), _WHOLE)
    again.feed_data(body)
    again.feed_eof()
    response.content = again
    return body


WATCH = Watch()


def _install() -> None:
    """Have every client of this process look, and every server of this process be known."""
    request, listening, drain = aiohttp.ClientSession._request, running.set_address, running.drain

    @functools.wraps(request)
    async def watched(self: Any, *args: Any, **options: Any) -> aiohttp.ClientResponse:
        response = await request(self, *args, **options)
        await WATCH.look(response)
        return response

    def set_address(composed: ComposedServer, host: str, port: int) -> None:
        WATCH.add(composed, port)
        listening(composed, host, port)

    async def drained(runner: Any, composed: ComposedServer) -> None:
        await drain(runner, composed)
        WATCH.remove(composed)

    aiohttp.ClientSession._request = watched  # type: ignore[method-assign]
    running.set_address = set_address
    running.drain = drained


_install()


@pytest.fixture(autouse=True)
def documented_answers(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test whose server answered what its document does not say."""
    WATCH.faults = []
    yield
    faults, WATCH.faults = WATCH.faults, []
    assert_documented(faults, request.node)


def assert_documented(faults: list[str], test: pytest.Item) -> None:
    """Assert that there are no faults, unless the test is marked."""
    if test.get_closest_marker("undocumented") is None:
        assert not faults, "\n".join(dict.fromkeys(faults))
