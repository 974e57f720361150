"""Single-shot inference: JSON, a raw image body, a multipart upload."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from aiohttp import hdrs
from msgspec import UNSET, Meta, Struct, UnsetType

from mataserver.errors import BadRequest, InvalidParams
from mataserver.http import bodies, codec, events, examples, forms, unknown_fields
from mataserver.http.head_requests import learn
from mataserver.http.infer_repeats import FormRepeat, ImageRepeat, Inferences, InferRepeat
from mataserver.http.protocol import CompleteResponse
from mataserver.http.request_warnings import ignored_in_query, warn
from mataserver.http.routing import Body, Route, StatelessService
from mataserver.params import table
from mataserver.results import InferResponse

if TYPE_CHECKING:
    from aiohttp import web

    from mataserver.contract.envelope import Format
    from mataserver.contract.service import Context
    from mataserver.http.infer_repeats import InferCall
    from mataserver.serving.models import ServedModels
    from mataserver.serving.observers import Observers

_UNSUPPORTED = "Content-Type must be application/json or image/*"
MAX_CACHED_QUERIES = 256
MAX_QUERY_TEXT = 1_024  # a request line has some 8,000 bytes


class InferRequest(Struct):
    """``POST /v1/infer`` with JSON, as the OpenAPI document shows it. ``image`` is base64.

    A model may take further parameters, those of its backend.
    """

    model: codec.ModelName
    image: Annotated[str, Meta(min_length=1)]
    params: table.ApiParams | None = None


class UploadForm(Struct):
    """``POST /v1/infer/upload``; the other parameters are JSON-only."""

    model: Annotated[codec.ModelName, examples.FILLED]
    file: bytes
    confidence: Annotated[table.Confidence, Meta(examples=[0.5])] | UnsetType = UNSET
    prompts: Annotated[table.Text, Meta(examples=["person . car"])] | UnsetType = UNSET
    prompt: Annotated[table.Text, Meta(examples=["What is there?"])] | UnsetType = UNSET
    language: Annotated[table.Language, Meta(examples=["en"])] | UnsetType = UNSET
    top_k: Annotated[table.TopK, Meta(examples=[5])] | UnsetType = UNSET
    max_tokens: Annotated[table.MaxTokens, Meta(examples=[64])] | UnsetType = UNSET
    temperature: Annotated[table.Temperature, Meta(examples=[0.2])] | UnsetType = UNSET
    output_mode: Annotated[table.OutputMode, Meta(examples=["describe"])] | UnsetType = UNSET
    ocr_type: Annotated[table.OcrType, Meta(examples=["ocr"])] | UnsetType = UNSET
    detail: Annotated[table.Detail, Meta(examples=[1])] | UnsetType = UNSET


def _query() -> dict[str, tuple[Any, bool, str]]:
    """Return the query parameters of a raw image body: the form's, without the file."""
    short = Annotated[str, Meta(max_length=MAX_QUERY_TEXT)]
    kinds = {field.name: field.type for field in msgspec.structs.fields(UploadForm)}
    del kinds["file"]
    kinds |= {"prompts": short, "prompt": short}
    text = "Only with an image as the body."
    return {name: (kind, False, text) for name, kind in kinds.items()}


class InferService(StatelessService):
    """The service of ``/v1/infer``."""

    def __init__(self, ctx: Context, models: ServedModels, observers: Observers) -> None:
        self._ctx = ctx
        self._http = ctx.http
        self._inferences = Inferences(ctx.http, models, observers)
        self._queries: dict[str, InferCall] = {}

    def routes(self) -> list[Route]:
        """Return the routes."""
        answer = (
            Body(codec.JSON, InferResponse),
            Body(codec.MSGPACK, InferResponse),
            Body(events.CONTENT_TYPE),
        )
        errors = (400, 404, 408, 413, 415, 422, 500, 503, 507)
        request = (
            Body(codec.JSON, InferRequest, examples.INFER),
            *(Body(f"image/{kind}") for kind in ("jpeg", "png", "webp")),
        )
        form = (Body("multipart/form-data", UploadForm, examples.UPLOAD),)
        return [
            Route("POST", "/v1/infer", self._infer, "Infer on one image", "inference",
                  request=request, response=answer, errors=errors, parameters=_query(),
                  checks_query=True, needs="infer"),
            Route("POST", "/v1/infer/upload", self._upload, "Infer on an uploaded file",
                  "inference", request=form, response=answer, errors=errors, needs="infer"),
        ]  # fmt: skip

    async def _infer(self, request: web.Request) -> web.StreamResponse:
        self._ctx.check_running()
        kind = codec.content_type(request)
        if kind.startswith("image/"):
            return await self._infer_raw(request)
        if kind in codec.UNSPECIFIC_TYPES:
            self._http.check_origin(request)
        elif not codec.is_json(kind):
            raise bodies.UnsupportedMediaType(_UNSUPPORTED)
        codec.check_charset(request)
        async with self._http.read_body(request) as data:
            if kind in codec.UNSPECIFIC_TYPES and not _looks_like_json(data):
                if "model" not in request.query:
                    raise bodies.UnsupportedMediaType(_UNSUPPORTED)
                call = self._call_of_query(request)
                return await self._run(request, call, _require_image(data))
            call, image = await self._inferences.read_json(data)
            del data
            response = await self._run(request, _with_query_warning(request, call), image)
        if (
            isinstance(response, CompleteResponse)
            and codec.is_json(kind)
            and not _has_query(request)
        ):
            learn(request, InferRepeat(self._inferences, codec.requested_format(request)))
        return response

    async def _infer_raw(self, request: web.Request) -> web.StreamResponse:
        call = self._call_of_query(request)
        async with self._http.read_body(request) as image:
            response = await self._run(request, call, _require_image(image))
        if isinstance(response, CompleteResponse):
            learn(request, ImageRepeat(self._inferences, codec.requested_format(request), call))
        return response

    def _call_of_query(self, request: web.Request) -> InferCall:
        """Parse a query; cached, as a camera repeats the same one."""
        query = request.rel_url.raw_query_string
        known = self._queries.get(query)
        if known is not None and known.model.plan() is known.plan:
            return known
        fields = forms.unique_fields(list(request.query.items()))
        for name, text in fields.items():
            if len(text) > MAX_QUERY_TEXT:
                raise InvalidParams(f"{name[:64]}: at most {MAX_QUERY_TEXT} characters in a query")
        call = self._inferences.of_fields(fields)
        if len(self._queries) >= MAX_CACHED_QUERIES:
            self._queries.clear()
        self._queries[query] = call
        return call

    async def _upload(self, request: web.Request) -> web.StreamResponse:
        self._ctx.check_running()
        async with self._http.read_form(request) as form:
            call, image = self._inferences.of_form(form)
            response = await self._run(request, call, image)
        if isinstance(response, CompleteResponse) and not _has_query(request):
            repeat = FormRepeat(self._inferences, codec.requested_format(request))
            learn(request, repeat, forms.boundary(request))
        return response

    async def _run(self, request: web.Request, call: InferCall, image: bytes) -> web.StreamResponse:
        form: Format = "json"
        warn(request, call.warning)
        if hdrs.ACCEPT in request.headers:
            if events.is_requested(request):
                items = call.model.generate_answer(image, call.params)
                patience = self._ctx.server.unread_timeout
                return await events.send(request, items, events.of_inference, patience)
            form = codec.requested_format(request)
        answer = await self._inferences.answer(call, image, form)
        return codec.respond(answer.body, form=form, timing=codec.server_timing(answer))


def _require_image(body: bytes) -> bytes:
    if not body:
        raise BadRequest("image is empty")
    return body


def _has_query(request: web.Request) -> bool:
    return bool(request.rel_url.raw_query_string)


def _with_query_warning(request: web.Request, call: InferCall) -> InferCall:
    """Return the call of a JSON body, beside which the query of an image body is ignored."""
    if not _has_query(request):
        return call
    ignored = map(ignored_in_query, request.query)
    return call._replace(warning=unknown_fields.joined([call.warning, *ignored]))


def _looks_like_json(body: bytes) -> bool:
    """Whether a body of unspecific type is a JSON object: no image starts like one."""
    return body[:64].lstrip().startswith(b"{")
