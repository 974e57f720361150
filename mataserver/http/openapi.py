"""The OpenAPI 3.1 document, from the route table and the msgspec types."""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import msgspec

from mataserver.http import examples, request_warnings
from mataserver.http.error_responses import MemoryProblem, Problem
from mataserver.http.schema_names import with_own_names
from mataserver.results import InferResponse
from mataserver.serving.description import portable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from mataserver.http.routing import Body, Route


_STATUS_TEXTS = {
    400: "The request cannot be read: malformed JSON, a missing or undecodable image, two keys",
    401: "Missing credentials",
    403: "Invalid credentials",
    404: "Not found",
    408: "The body did not arrive in time",
    409: "The same is being done already, or it is at odds with what there is",
    412: "Changed since: `If-Match`; or another version of the protocol",
    413: "The body is over the limit",
    415: "Unsupported content type",
    422: "A field has the wrong type, is out of range, unknown or missing",
    423: "Another request writes this now",
    429: "Asked too often",
    460: "The bytes are not those of the checksum",
    500: "The engine or the model failed",
    503: "Not now: a limit is reached, or the server is shutting down",
    507: "Not enough RAM or VRAM, or the disk is full",
}
_VARIABLE_PATTERN = re.compile(r"\{(\w+):[^{}]*(?:\{[^{}]*\}[^{}]*)*\}")
"""A path variable with a pattern, which may contain braces itself."""
_REF = "#/components/schemas/{name}"
_HEADERS = {
    "X-Request-Id": {
        "description": "The request's own, if it is sane, else a new one.",
        "schema": {"type": "string", "maxLength": 128},
    },
    "Server-Timing": {
        "description": "Milliseconds: decode, queue, infer and encode of an inference, and total.",
        "schema": {"type": "string"},
    },
    request_warnings.HEADER: {
        "description": "What of a request was ignored: fields of a JSON body and parameters of a "
        "query that the route does not have, a body where it takes none.",
        "schema": {"type": "string"},
    },
    "Retry-After": {
        "description": "Seconds to wait, where a later try may succeed.",
        "schema": {"type": "integer", "minimum": 1},
    },
}
_NO_OUTPUTS: dict[str, type[msgspec.Struct]] = {}
_COMMON_HEADERS = ("X-Request-Id", "Server-Timing")


def document(
    routes: Iterable[Route],
    version: str,
    task_outputs: Mapping[str, type[msgspec.Struct]] = _NO_OUTPUTS,
    *,
    limited: bool = False,
) -> dict[str, Any]:
    """Return the document; undocumented routes are omitted.

    ``task_outputs`` has each plugin task's result struct. Routes that claim some requests of
    another are merged into that route's operation. ``limited``: a service authenticates callers,
    and may limit how often they ask.
    """
    refusals = (401, 403, 429) if limited else (401, 403)
    documented = [each for each in routes if each.documented and (each.summary or each.when)]
    every = ((route.request, route.response, *route.also.values()) for route in documented)
    bodies = [body for groups in every for group in groups for body in group if body.schema]
    types = [*(body.schema for body in bodies), Problem, MemoryProblem, *_smaller_types(documented)]
    types += task_outputs.values()
    made = msgspec.json.schema_components(types, ref_template=_REF)
    schemas, components = with_own_names(portable(list(made[0])), portable(made[1]))
    known = dict(zip(map(repr, types), schemas, strict=True))
    for body in bodies:
        if body.content_type == "multipart/form-data":
            form = known[repr(body.schema)]
            _describe_files(components.get(form.get("$ref", "").rpartition("/")[2], form))
    answers = [_task_answer(task, known[repr(kind)]) for task, kind in task_outputs.items()]
    if answers and repr(InferResponse) in known:
        own = known[repr(InferResponse)]
        known[repr(InferResponse)] = {"anyOf": [own, *({"allOf": [own, each]} for each in answers)]}

    def schema(kind: Any) -> dict[str, Any]:
        found: dict[str, Any] = known[repr(kind)]
        return found

    paths: dict[str, dict[str, Any]] = {}
    for route in documented:
        path = _VARIABLE_PATTERN.sub(r"{\1}", route.path)
        operations = paths.setdefault(path, {})
        operation = _operation(route, path, schema, refusals)
        method = route.method.lower()
        if route.when is None:
            operations[method] = operation
        elif method in operations:
            _join(operations[method], operation)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "mataserver",
            "version": version,
            "description": "Computer vision models over REST. Video goes over "
            "`WS /v1/stream/{session_id}`.",
        },
        "paths": paths,
        "components": {
            "schemas": components,
            "headers": _HEADERS,
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
    }


def _smaller_types(routes: Iterable[Route]) -> Iterator[Any]:
    """Yield the types of parameters, headers and errors."""
    for route in routes:
        for kind, _, _ in (*route.parameters.values(), *route.headers.values()):
            yield kind
        if route.problem is not None:
            yield route.problem


def _describe_files(schema: dict[str, Any]) -> None:
    """Describe the bytes of a form as files: JSON has them as base64, a form as they are."""
    if schema.pop("contentEncoding", None):
        schema["format"] = "binary"
    for each in (*schema.get("properties", {}).values(), *schema.get("anyOf", ())):
        _describe_files(each)
    if "items" in schema:
        _describe_files(schema["items"])


def _task_answer(task: str, output: dict[str, Any]) -> dict[str, Any]:
    """Return what a plugin task's answer has in addition to the common fields."""
    return {
        "type": "object",
        "properties": {"task": {"const": task}, "output": output},
        "required": ["task", "output"],
    }


def _operation(
    route: Route, path: str, schema: Callable[[Any], dict[str, Any]], refusals: tuple[int, ...]
) -> dict[str, Any]:
    name = re.sub(r"\W+", "_", f"{route.method.lower()}{path}").strip("_")
    # 400 is of every route, open ones too: of two keys, or a header that is there twice.
    errors = [400, *route.errors, *(() if route.public else refusals)]
    operation: dict[str, Any] = {
        "summary": route.summary,
        "operationId": name,
        "tags": [route.tag],
        "parameters": _parameters(route, path, schema),
        "responses": {
            str(status): _response(status, bodies, schema, route)
            for status, bodies in {route.status: route.response, **route.also}.items()
        },
        "security": [] if route.public else [{"key": [route.needs] if route.needs else []}],
    }
    if route.request:
        content = {body.content_type: _media(body, schema) for body in route.request}
        operation["requestBody"] = {"required": not route.optional, "content": content}
    for status in sorted(errors):
        # Of 429 and of any failure here or behind: a full disk may be cleared, a service be back.
        later = status == 429 or status >= 500
        names = (*_COMMON_HEADERS, "Retry-After") if later else _COMMON_HEADERS
        said = _STATUS_TEXTS.get(status) or HTTPStatus(status).phrase
        headers = _headers(names) | _own_headers(
            dict.fromkeys(route.error_headers, "Of its protocol.")
        )
        problem = schema(route.problem or (MemoryProblem if status == 507 else Problem))
        content = {"application/json": {"schema": problem}}
        answer = {"description": said, "headers": headers, "content": content}
        operation["responses"].setdefault(str(status), answer)
    return operation


def _join(operation: dict[str, Any], added: dict[str, Any]) -> None:
    """Merge the parameters and answers of a route that claims some of an operation's requests."""
    known = {(each["in"], each["name"]) for each in operation["parameters"]}
    operation["parameters"] += [
        each for each in added["parameters"] if (each["in"], each["name"]) not in known
    ]
    if "requestBody" in added:
        own = operation.setdefault("requestBody", added["requestBody"])["content"]
        operation["requestBody"]["content"] = {**added["requestBody"]["content"], **own}
    for status, answer in added["responses"].items():
        content = operation["responses"].setdefault(status, answer).get("content", {})
        for kind, media in answer.get("content", {}).items():
            own = content.setdefault(kind, media)
            there = own["schema"].get("anyOf", [own["schema"]])
            if media["schema"] not in there:
                content[kind] = {**own, "schema": {"anyOf": [*there, media["schema"]]}}


def _headers(names: Iterable[str]) -> dict[str, dict[str, str]]:
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}


def _own_headers(described: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    text = {"type": "string"}
    return {name: {"description": said, "schema": text} for name, said in described.items()}


def _parameters(
    route: Route, path: str, schema: Callable[[Any], dict[str, Any]]
) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in re.findall(r"\{(\w+)\}", path)
    ]
    for place, named in (("query", route.parameters), ("header", route.headers)):
        for name, (kind, required, text) in named.items():
            entry = {"name": name, "in": place, "required": required, "description": text}
            found.append({**entry, "schema": schema(kind)})
    for each in found:
        if each["name"] in examples.PARAMETERS:
            each["example"] = examples.PARAMETERS[each["name"]]
    return found


def _response(
    status: int, bodies: tuple[Body, ...], schema: Callable[[Any], dict[str, Any]], route: Route
) -> dict[str, Any]:
    names = _COMMON_HEADERS if status >= 400 else (*_COMMON_HEADERS, request_warnings.HEADER)
    headers = _headers(names) | _own_headers(route.answer_headers)
    answer: dict[str, Any] = {"description": HTTPStatus(status).phrase, "headers": headers}
    if bodies:
        answer["content"] = {body.content_type: _media(body, schema) for body in bodies}
    return answer


def _media(body: Body, schema: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
    if body.schema is not None:
        example = {} if body.example is None else {"example": body.example}
        return {"schema": schema(body.schema), **example}
    if body.content_type in {"*/*", "application/json"}:
        return {"schema": {}}  # any JSON, or a file, which may be JSON too
    binary = not body.content_type.startswith("text/")
    return {"schema": {"type": "string", **({"format": "binary"} if binary else {})}}
