"""``POST /v1/jobs/infer``: takes a video or pictures in, by an upload or by a path."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Protocol

import msgspec
from msgspec import Meta

from mataserver import (
    Body,
    Conflict,
    InvalidParams,
    MataError,
    Route,
    check_query,
    content_type,
    describe_error,
)
from mataserver_jobs.allowed import allowed
from mataserver_jobs.infer import (
    UPLOAD,
    Every,
    InferRequest,
    InferSpec,
    Limit,
    ModelName,
    task_of_model,
)
from mataserver_jobs.other_files import refuse_other
from mataserver_jobs.parameters import KEY_HEADER, idempotency_key, query_and
from mataserver_jobs.routes import JSON, asker, owner_of
from mataserver_jobs.views import JobView

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aiohttp import web

    from mataserver import Context
    from mataserver_jobs.desk import Desk
    from mataserver_jobs.record import Record
    from mataserver_jobs.uploads import Uploads

    class Served(Protocol):
        """What has the desk, once it is entered, and the uploads."""

        desk: Desk
        uploads: Uploads


_BYTES = "application/octet-stream"
MAX_JSON_BYTES = 1_000_000
_FIELDS: dict[str, tuple[Any, bool, str]] = {
    "model": (ModelName, False, "The model, where the body is the video itself."),
    "params": (str, False, "Its parameters, as JSON, likewise."),
    "every": (Every, False, "Each how many frames one is looked at, likewise."),
    "limit": (Limit, False, "How many are looked at, likewise."),
    "annotate": (bool, False, "Whether a video is made with what was found drawn in, likewise."),
}


MODEL = "opencv-qr"
"""The model of the document's examples: one that a server has from its start."""
EXAMPLE: dict[str, Any] = {"model": MODEL, "params": {"confidence": 0.5}, "every": 5}


class InferForm(msgspec.Struct):
    """The form: a video or a ZIP of pictures as ``file``, and the fields of the JSON as texts."""

    file: bytes
    model: Annotated[ModelName, Meta(examples=[MODEL], extra_json_schema={"x-filled": True})]
    params: Annotated[str, Meta(examples=['{"confidence": 0.5}'])] = "{}"
    every: Annotated[Every, Meta(examples=[5])] = 1
    limit: Annotated[Limit, Meta(examples=[100])] | None = None
    annotate: bool | None = None


class InferCheck(msgspec.Struct):
    """What a job would run: the model that was named, and its task."""

    model: str
    task: str


class InferRoutes:
    """The handlers."""

    def __init__(self, ctx: Context, service: Served) -> None:
        self._ctx = ctx
        self._service = service
        self._roots = ctx.settings.roots

    def all(self) -> list[Route]:
        """Return the routes."""
        form = Body("multipart/form-data", InferForm, {**EXAMPLE, "params": '{"confidence": 0.5}'})
        whence = {"path": self._roots[0]} if self._roots else {"upload": "ID-OF-AN-UPLOAD"}
        named = Body(JSON, InferRequest, EXAMPLE | whence)
        return [
            Route("POST", "/v1/jobs/infer", self.submit, "A model over a video or many pictures",
                  "jobs", request=(form, named, Body(_BYTES)),
                  response=(Body(JSON, JobView),), status=202, parameters=_FIELDS,
                  headers=KEY_HEADER,
                  errors=(400, 404, 408, 409, 413, 415, 422, 503, 507), needs="jobs:write",
                  max_body=self._ctx.settings.max_upload_mb * 1_000_000, body_timeout="idle"),
            Route("POST", "/v1/jobs/infer/check", self.check,
                  "Whether a job could be made, before its file is sent", "jobs",
                  request=(Body(JSON, InferRequest, EXAMPLE),),
                  response=(Body(JSON, InferCheck),),
                  errors=(400, 404, 408, 413, 415, 422, 503), needs="jobs:write",
                  max_body=MAX_JSON_BYTES),
        ]  # fmt: skip

    async def check(self, request: web.Request) -> web.Response:
        """Answer what a job would run, or refuse as ``submit`` would; no job is created."""
        _refuse_query(request)
        async with self._ctx.http.read_json(request, InferRequest) as asked:
            pass
        if asked.path is not None:
            await self._ctx.run_blocking(self._resolve, asked.path)
        return self._ctx.http.respond(InferCheck(asked.model, self._spec(asked).task))

    async def submit(self, request: web.Request) -> web.Response:
        """Take a job in; 202 with it."""
        key = idempotency_key(request)
        named = content_type(request) == JSON
        record = await (
            self._submit_json(request, key) if named else self._submit_form(request, key)
        )
        return self._ctx.http.respond(JobView.of(record), status=202, request=request)

    async def _submit_json(self, request: web.Request, key: str | None) -> Record:
        if (request.content_length or MAX_JSON_BYTES + 1) > MAX_JSON_BYTES:
            raise MataError(f"JSON is taken up to {MAX_JSON_BYTES} bytes", status=413)
        _refuse_query(request)
        async with self._ctx.http.read_json(request, InferRequest) as asked:
            pass
        if (asked.path is None) == (asked.upload is None):
            raise InvalidParams("path: it or upload is required, unless a file is sent as a form")
        if asked.upload is not None:
            return await self._submit_upload(request, asked, asked.upload, key)
        asked.path = await self._ctx.run_blocking(self._resolve, asked.path)
        desk = self._service.desk
        async with desk.draft() as draft:
            return await desk.submit(draft, "infer", asker(request).id, self._spec(asked), key=key)

    async def _submit_upload(
        self, request: web.Request, asked: InferRequest, upload: str, key: str | None
    ) -> Record:
        """Take a job in whose file came by ``/v1/uploads``; the upload is the job's then."""
        desk, uploads, owner = self._service.desk, self._service.uploads, asker(request).id
        async with uploads.reserve(upload, owner_of(request)) as known:
            spec = self._spec(asked, known.name)
            if known.job is not None:
                again = await desk.store.submitted("infer", owner, spec, key)
                if again is None:
                    raise Conflict("A job has taken the upload")
                return again
            async with desk.draft() as draft:
                await self._ctx.run_blocking(uploads.hand_over, known, draft.input / UPLOAD)
                await self._ctx.run_blocking(refuse_other, draft.input / UPLOAD)
                record = await desk.submit(draft, "infer", owner, spec, key=key, size=known.length)
            await self._ctx.run_blocking(uploads.note_taken, known, record.id)
            return record

    async def _submit_form(self, request: web.Request, key: str | None) -> Record:
        desk = self._service.desk
        check_query(request, InferRequest.__struct_fields__)
        if not content_type(request).startswith("multipart/"):
            self._spec(
                _request_from_form(request.query)
            )  # all is said already: the body is not waited for
        async with desk.draft() as draft:
            saved = await self._ctx.http.save_body(request, draft.input / UPLOAD)
            asked = _request_from_form(query_and(request, saved.fields))
            spec = self._spec(asked, saved.name[:255])
            await self._ctx.run_blocking(refuse_other, draft.input / UPLOAD)
            owner = asker(request).id
            return await desk.submit(draft, "infer", owner, spec, key=key, size=saved.size)

    def _resolve(self, path: str) -> str:
        """Return where a path leads. Raises ``NotFound``; ``BadRequest`` for no video or ZIP."""
        found = allowed(path, self._roots)
        refuse_other(found)
        return str(found)

    def _spec(self, asked: InferRequest, file: str = "") -> InferSpec:
        """Return a job of what was asked. Raises as ``task_of_model``."""
        task = task_of_model(self._ctx.models, asked)
        return InferSpec(**msgspec.structs.asdict(asked), file=file, task=task)


def _refuse_query(request: web.Request) -> None:
    """Raise ``InvalidParams`` for parameters beside JSON, which would have no effect."""
    for name in request.query:
        raise InvalidParams(f"{name[:64]}: not in the query; write it into the JSON")


def _request_from_form(fields: Mapping[str, str]) -> InferRequest:
    """Return what the texts of a form ask; an empty one asks nothing. Raises ``InvalidParams``."""
    given: dict[str, Any] = {name: text for name, text in fields.items() if text}
    for name in ("path", "upload"):
        if name in given:
            raise InvalidParams(f"{name}: a file was sent, but only JSON is accepted")
    try:
        if "params" in given:
            given["params"] = msgspec.json.decode(given["params"], type=dict[str, Any])
        return msgspec.convert(given, InferRequest, strict=False)
    except msgspec.ValidationError as error:
        raise InvalidParams(describe_error(error, InferRequest)) from None
    except (msgspec.DecodeError, RecursionError):
        raise InvalidParams("params: expected a JSON object") from None
