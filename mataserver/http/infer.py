"""Single-shot inference: JSON, a raw image body, a multipart upload."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType
from multipart import MultipartError, MultipartSegment, PushMultipartParser, parse_options_header

from mataserver import data_uri, params
from mataserver.engines.work import Job
from mataserver.errors import BadRequest, InvalidParams
from mataserver.http import codec, events
from mataserver.http.routing import Body, Route
from mataserver.results import InferResponse

if TYPE_CHECKING:
    from aiohttp import web

    from mataserver.engines.work import Outcome
    from mataserver.http.routing import State
    from mataserver.slots import Recipe

MAX_FIELDS = 64
MAX_FIELD_BYTES = 65_536
KNOWN_QUERIES = 256
MAX_QUERY_TEXT = 1_024  # a request line holds some 8,000 bytes


class InferRequest(Struct):
    """``POST /v1/infer`` with JSON, as the OpenAPI document shows it. ``image`` is base64.

    A model may take further parameters, those of its backend.
    """

    model: codec.ModelName
    image: Annotated[str, Meta(min_length=1)]
    params: params.ApiParams | None = None


class InferBody(Struct):
    """``POST /v1/infer`` with JSON, as it is decoded; unknown fields are ignored."""

    model: codec.ModelName
    image: str | UnsetType | None = UNSET
    params: dict[str, Any] | None = None


def routes(state: State) -> list[Route]:
    """Return this module's routes."""
    api = _Infer(state)
    answer = (
        Body(codec.JSON, InferResponse),
        Body(codec.MSGPACK, InferResponse),
        Body(events.CONTENT_TYPE),
    )
    errors = (400, 404, 408, 413, 415, 422, 500, 503, 507)
    request = (
        Body(codec.JSON, InferRequest),
        *(Body(f"image/{kind}") for kind in ("jpeg", "png", "webp")),
    )
    form = (Body("multipart/form-data", UploadForm),)
    return [
        Route("POST", "/v1/infer", api.infer, "Infer on one image", "inference",
              request=request, response=answer, errors=errors, parameters=_query()),
        Route("POST", "/v1/infer/upload", api.upload, "Infer on an uploaded file", "inference",
              request=form, response=answer, errors=errors),
    ]  # fmt: skip


class UploadForm(Struct):
    """``POST /v1/infer/upload``; the other parameters are JSON-only."""

    model: codec.ModelName
    file: Annotated[Any, Meta(extra_json_schema={"type": "string", "format": "binary"})]
    confidence: params.Confidence | UnsetType = UNSET
    prompts: params.Text | UnsetType = UNSET
    prompt: params.Text | UnsetType = UNSET
    language: params.Language | UnsetType = UNSET
    top_k: params.TopK | UnsetType = UNSET
    max_tokens: params.MaxTokens | UnsetType = UNSET
    temperature: params.Temperature | UnsetType = UNSET
    output_mode: params.OutputMode | UnsetType = UNSET
    ocr_type: params.OcrType | UnsetType = UNSET
    detail: params.Detail | UnsetType = UNSET


def _query() -> dict[str, tuple[Any, bool, str]]:
    """Return the query parameters of a raw image body: those of the form but the file."""
    short = Annotated[str, Meta(max_length=MAX_QUERY_TEXT)]
    kinds = {field.name: field.type for field in msgspec.structs.fields(UploadForm)}
    del kinds["file"]
    kinds |= {"prompts": short, "prompt": short}
    text = "Only with an image as the body."
    return {name: (kind, False, text) for name, kind in kinds.items()}


class _Asked(NamedTuple):
    """What a query asks for."""

    model: str
    recipe: Recipe
    packed: bytes


class _Infer:
    def __init__(self, state: State) -> None:
        self._state = state
        self._queries: dict[str, _Asked] = {}

    async def infer(self, request: web.Request) -> web.StreamResponse:
        self._state.check_running()
        kind = codec.content_type(request)
        if kind.startswith("image/"):
            return await self._raw(request)
        if kind != codec.JSON:
            raise codec.Unsupported("Content-Type must be application/json or image/*")
        async with codec.body(request, self._state) as data:
            asked = await codec.decoded(self._state, data, codec.json_of(InferBody))
            del data
            if not isinstance(asked.image, str):
                raise BadRequest("image: field is required")
            image = data_uri.decode(asked.image)
            recipe = self._state.catalog.recipe(asked.model)
            parsed = params.parse(asked.params or {}, recipe.backend.params, **self._rules(recipe))
            del asked
            return await self._run(request, recipe, image, msgspec.msgpack.encode(parsed))

    async def _raw(self, request: web.Request) -> web.StreamResponse:
        asked = self._asked(request)
        async with codec.body(request, self._state) as image:
            if not image:
                raise BadRequest("image is empty")
            return await self._run(request, asked.recipe, image, asked.packed)

    def _asked(self, request: web.Request) -> _Asked:
        """Return what a query asks for; a camera asks the same every time."""
        query = request.rel_url.raw_query_string
        known = self._queries.get(query)
        if known is not None and self._state.catalog.recipe(known.model) is known.recipe:
            return known
        fields = _once(list(request.query.items()))
        for name, text in fields.items():
            if len(text) > MAX_QUERY_TEXT:
                raise InvalidParams(f"{name[:64]}: at most {MAX_QUERY_TEXT} characters in a query")
        model = fields.pop("model", None)
        if not model:
            raise InvalidParams("model: field is required")
        recipe = self._state.catalog.recipe(model)
        parsed = params.parse_text(fields, recipe.backend.params, **self._rules(recipe))
        if len(self._queries) >= KNOWN_QUERIES:
            self._queries.clear()
        asked = _Asked(model, recipe, msgspec.msgpack.encode(parsed))
        self._queries[query] = asked
        return asked

    async def upload(self, request: web.Request) -> web.StreamResponse:
        self._state.check_running()
        kind, options = parse_options_header(request.headers.get("Content-Type", ""))
        if kind != "multipart/form-data":
            raise codec.Unsupported("Content-Type must be multipart/form-data")
        async with codec.body(request, self._state) as data:
            file, fields = _parts(data, options.get("boundary", ""))
            del data
            model = fields.pop("model", None)
            if not model:
                raise InvalidParams("model: field is required")
            if file is None:
                raise InvalidParams("file: field is required")
            if not file:
                raise BadRequest("Uploaded file is empty")
            recipe = self._state.catalog.recipe(model)
            parsed = params.parse_text(fields, recipe.backend.params, **self._rules(recipe))
            return await self._run(request, recipe, file, msgspec.msgpack.encode(parsed))

    def _rules(self, recipe: Recipe) -> dict[str, Any]:
        return {"defaults": recipe.settings.params, "max_tokens": self._state.settings.max_tokens}

    async def _run(
        self, request: web.Request, recipe: Recipe, image: bytes, packed: bytes
    ) -> web.StreamResponse:
        if events.wanted(request):
            items = self._state.pool.generate(recipe, Job(image, packed))
            patience = self._state.settings.unread_timeout
            return await events.respond(request, recipe, items, patience)
        form = codec.wanted_format(request)
        outcome, waited = await self._state.pool.infer(recipe, Job(image, packed, form))
        codec.check_outcome(outcome)
        answer = codec.envelope(outcome, recipe.spec.task, recipe.spec.name)
        return codec.respond(answer, form=form, timing=_timing(outcome, waited))


def _timing(outcome: Outcome, waited: float) -> str:
    timing = outcome.timing
    return (
        f"decode;dur={timing.decode:.3f}, queue;dur={waited:.3f}, "
        f"infer;dur={timing.infer:.3f}, encode;dur={timing.encode:.3f}"
    )


def _once(items: list[tuple[str, str]]) -> dict[str, str]:
    fields: dict[str, str] = {}
    for name, value in items:
        if name in fields:
            raise InvalidParams(f"{name[:64]}: given twice")
        fields[name] = value
    return fields


def _parts(data: bytes, boundary: str) -> tuple[bytes | None, dict[str, str]]:
    """Split a multipart body into the bytes of ``file`` and the text fields.

    Raises ``BadRequest`` for a body that is no multipart, ``InvalidParams`` for doubled fields.
    """
    file: bytes | None = None
    texts: list[tuple[str, str]] = []
    for name, content in _segments(data, boundary):
        if name == "file":
            if file is not None:
                raise InvalidParams("file: given twice")
            file = content
        elif len(content) > MAX_FIELD_BYTES:
            raise InvalidParams(f"{name[:64]}: longer than {MAX_FIELD_BYTES} bytes")
        else:
            texts.append((name, _text(name, content)))
    return file, _once(texts)


def _segments(data: bytes, boundary: str) -> list[tuple[str, bytes]]:
    if not boundary:
        raise BadRequest("The multipart body has no boundary")
    found: list[tuple[str, bytes]] = []
    chunks: list[bytes] = []
    segment: MultipartSegment | None = None
    try:
        with PushMultipartParser(
            boundary.encode("latin-1"), max_segment_count=MAX_FIELDS
        ) as parser:
            for event in parser.parse(data):
                if isinstance(event, MultipartSegment):
                    segment, chunks = event, []
                elif event:
                    chunks.append(bytes(event))
                elif segment is not None:
                    if not segment.name:
                        raise BadRequest("The multipart body has a part without a name")
                    found.append((segment.name, b"".join(chunks)))
    except (MultipartError, UnicodeEncodeError, ValueError):
        raise BadRequest("The multipart body is malformed") from None
    return found


def _text(name: str, content: bytes) -> str:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        raise InvalidParams(f"{name[:64]}: not UTF-8 text") from None
