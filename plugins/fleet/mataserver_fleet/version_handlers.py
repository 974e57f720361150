"""The files of models: ``POST /api/models``, and ``/api/models/{identity}/versions``."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated, Any, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from mataserver import BadRequest, Body, InvalidParams, Route, Upload, check_query, content_type
from mataserver_database import PARAMETERS, finish, page_of
from mataserver_fleet.files import WrongOffset
from mataserver_fleet.handlers import Handlers
from mataserver_fleet.load_answers import refusal, results
from mataserver_fleet.loading import ModelLoader, Result
from mataserver_fleet.model_views import (
    ChangedModel,
    ModelView,
    ModelViews,
    VersionList,
    page_of_versions,
)
from mataserver_fleet.models import Description, ModelName, Models, check_name
from mataserver_fleet.pages import (
    BODY_ERRORS,
    FORCE,
    IF_MATCH,
    JSON,
    READ,
    Status,
    caller,
    expected,
    flag,
    tagged,
)
from mataserver_fleet.store import check_revision
from mataserver_fleet.uploads import (
    check_fields,
    chunk_of,
    description_of,
    model_files,
    version_of,
)
from mataserver_fleet.version_removal import remove_version

if TYPE_CHECKING:
    import sqlalchemy as sa
    from aiohttp import web

    from mataserver import Principal, Uploads
    from mataserver_fleet.loading import LoadOutcome
    from mataserver_fleet.pages import Tags
    from mataserver_fleet.uploads import Chunk

FORM = "multipart/form-data"
_LOAD: dict[str, tuple[Any, bool, str]] = {
    "load": (
        bool,
        False,
        "Load the model at all Tritons as well: 502 where one could not [false].",
    ),
}
_Version = Annotated[int, Meta(ge=1, lt=10**9)]
_VERSION: dict[str, tuple[Any, bool, str]] = {
    "version": (_Version, True, "Which one."),
    **FORCE,
}


class ModelForm(Struct, kw_only=True):
    """The form of a new model: its name, and its files, whose names may carry a path."""

    name: ModelName
    description: Description | UnsetType = UNSET
    files: list[bytes] = []


class VersionForm(Struct, kw_only=True):
    """The form of a new version: its files; or, with ``offset``, a piece of one.

    ``check`` is the sha256 in hex of the whole file and comes with its last piece. With ``more``,
    "true", the file is kept for a version of several: that one's form has ``digests``, a JSON
    object of the sha256 of each such file by its name.
    """

    files: list[bytes]
    version: _Version | UnsetType = UNSET
    offset: Annotated[int, Meta(ge=0, lt=10**15)] | UnsetType = UNSET
    check: (
        Annotated[
            str, Meta(pattern=r"^[0-9a-f]{64}\Z", description="a SHA-256 as 64 hexadecimal digits")
        ]
        | UnsetType
    ) = UNSET
    more: Literal["true", "false"] | UnsetType = UNSET
    digests: str | UnsetType = UNSET


class AddedVersion(Struct, kw_only=True):
    """The version that was added; or, for a piece of a file, how many bytes there are of it.

    ``digest`` is that of a whole file which is kept for a version that names it. ``tritons`` has
    the result at each, where it was to be loaded as well.
    """

    status: str = "ok"
    version: str | UnsetType = UNSET
    offset: int | UnsetType = UNSET
    digest: str | UnsetType = UNSET
    tritons: list[Result] | UnsetType = UNSET


class UnexpectedOffset(Struct, frozen=True):
    """409: a piece that does not follow; ``offset`` is where the next one begins."""

    detail: str
    error: str
    offset: int


class VersionHandlers(Handlers):
    """The routes of models' files."""

    def routes(self) -> list[Route]:
        """Return the routes."""
        path = "/api/models/{identity}/versions"
        write = {**READ, "needs": "fleet:write"}
        files = {
            **write,
            "max_body": self._ctx.settings.max_model_mb * 1_000_000,
            "body_timeout": "idle",
        }
        body = BODY_ERRORS
        done, kept = (Body(JSON, Status),), {202: (Body(JSON, AddedVersion),)}
        return [
            Route("POST", "/api/models", self.add, "Make a model", status=201, errors=body,
                  request=(Body(FORM, ModelForm),), response=(Body(JSON, ModelView),), **files),
            Route("PATCH", "/api/models/{identity}", self.add_version, "Add a version", **files,
                  headers=IF_MATCH, parameters=_LOAD, also=kept, errors=(*body, 404, 412, 502),
                  request=(Body(FORM, VersionForm),), response=(Body(JSON, ChangedModel),),
                  when=lambda request: content_type(request) == FORM),
            Route("GET", path, self.index, "The versions of a model", parameters=PARAMETERS,
                  response=(Body(JSON, VersionList),), errors=(404, 422, 503), **READ),
            Route("POST", path, self.add_version, "Add a version", status=201, parameters=_LOAD,
                  request=(Body(FORM, VersionForm),), response=(Body(JSON, AddedVersion),),
                  headers=IF_MATCH, errors=(*body, 404, 412, 502), also=kept, **files),
            Route("DELETE", path, self.remove, "Remove a version", response=done,
                  headers=IF_MATCH, parameters=_VERSION,
                  errors=(400, 404, 409, 412, 422, 503, 507), **write),
            Route("DELETE", path + "/{version}", self.remove, "Remove a version", response=done,
                  headers=IF_MATCH, parameters=FORCE,
                  errors=(404, 409, 412, 422, 503, 507), **write),
        ]  # fmt: skip

    @property
    def _models(self) -> Models:
        return Models(self._components.store)

    def _views(self, request: web.Request) -> ModelViews:
        return ModelViews(self._components.store, full=caller(request).may("admin"))

    async def add(self, request: web.Request) -> web.Response:
        """Make a model with the versions that its files are of."""
        who = caller(request)
        with self._components.files.upload_folder() as folder:
            form = await self._ctx.http.save_files(request, folder)
            check_fields(form.fields, ModelForm)
            name = form.fields.get("name", "")
            check_name(name)
            row = await finish(self._made(name, form, who))
        self._note(request, "made the model", row["name"])
        shown, revision = await finish(self._views(request).one(str(row["id"]), files=True))
        return tagged(self._ctx, ModelView(**shown), revision, 201)

    async def _made(self, name: str, form: Uploads, who: Principal) -> sa.RowMapping:
        files, words = model_files(form.files), description_of(form.fields)
        if not files:
            return await self._models.add(name, {}, words)
        keep = self._components.upload_store.contents
        contents = await asyncio.to_thread(keep, name, files, who, None, 1)
        return await self._models.add(name, contents, words)

    async def index(self, request: web.Request) -> web.Response:
        """Answer the versions of a model."""
        page = page_of(request)
        look = self._views(request).one(request.match_info["identity"], files=True)
        shown, revision = await finish(look)
        return tagged(self._ctx, page_of_versions(shown["versions"], page), revision)

    async def add_version(self, request: web.Request) -> web.Response:
        """Add a version, or a piece of one of its files."""
        check_query(request, _LOAD)
        who, load = caller(request), flag(request, "load")
        row = await finish(self._models.one(request.match_info["identity"]))
        check_revision(row, expected(request))  # before its files are sent
        with self._components.files.upload_folder() as folder:
            form = await self._ctx.http.save_files(request, folder)
            check_fields(form.fields, VersionForm)
            sent, requested = model_files(form.files), version_of(form.fields)
            files = (*sent, *self._components.upload_store.kept(form.fields.get("digests", "")))
            chunk = chunk_of(sent, form.fields)
            if chunk is not None:
                found = await self._appended(row, requested, chunk, who)
                if not isinstance(found, tuple):
                    return found
                files = found
            work = self._added(row, requested, files, who, expected(request))
            revision, numbers = await finish(work)
        self._note(request, f"added version {numbers[-1]} of", row["name"])
        if load:
            outcome = await self._loading.load(str(row["id"]), None, None)
            return await self._loaded(request, row, str(numbers[-1]), outcome)
        return await self._answer(request, row, AddedVersion(version=str(numbers[-1])), revision)

    async def _loaded(
        self, request: web.Request, row: sa.RowMapping, version: str, outcome: LoadOutcome
    ) -> web.Response:
        """Answer with an added version, and the results of loading it.

        One that could not be loaded is there all the same, and wanted: the answer shows both.
        """
        name, full = row["name"], caller(request).may("admin")
        refused = refusal(self._ctx, name, outcome, "loaded", full=full, version=version)
        if refused is not None:
            return refused
        added = AddedVersion(version=version, tritons=results(outcome, full=full))
        return await self._answer(request, row, added, outcome.revision)

    async def _answer(
        self, request: web.Request, row: sa.RowMapping, added: AddedVersion, revision: int
    ) -> web.Response:
        if request.method == "PATCH":
            # Not by the row, which was read before the version was added.
            shown, revision = await finish(self._views(request).one(str(row["id"]), files=True))
            return tagged(self._ctx, ChangedModel(**shown), revision)
        return tagged(self._ctx, added, revision, 201)

    @property
    def _loading(self) -> ModelLoader:
        limit = self._ctx.settings.load_timeout
        return ModelLoader(self._components.store, self._components.changes, limit)

    async def _appended(
        self, row: sa.RowMapping, version: int | None, chunk: Chunk, who: Principal
    ) -> tuple[Upload, ...] | web.Response:
        """Add a piece; return all files once it was the last one, else the answer."""
        append = self._components.upload_store.append
        try:
            found = await finish(asyncio.to_thread(append, row["name"], version, chunk, who))
        except WrongOffset as error:
            outcome = UnexpectedOffset(error.detail, error.detail, error.expected)
            return self._ctx.http.respond(outcome, status=409)
        if isinstance(found, int):
            return self._ctx.http.respond(AddedVersion(offset=found), status=202)
        if chunk.more:
            blob = await finish(asyncio.to_thread(self._components.files.keep, found))
            kept = AddedVersion(offset=blob.size, digest=blob.digest)
            return self._ctx.http.respond(kept, status=202)
        whole = Upload("files[]", chunk.file.name, found, found.stat().st_size)
        return (whole, *chunk.rest)

    async def _added(
        self,
        row: sa.RowMapping,
        requested: int | None,
        files: tuple[Upload, ...],
        who: Principal,
        tags: Tags | None,
    ) -> tuple[int, list[int]]:
        """Add the versions of the files; one without a number in its path is the next one.

        Returns the model's revision then, and their numbers.
        """
        newest, known = await self._models.newest(row["id"])
        default_version = requested or newest + 1
        keep = self._components.upload_store.contents
        contents = await asyncio.to_thread(keep, row["name"], files, who, known, default_version)
        if requested is not None and set(contents) != {requested}:
            raise InvalidParams("version: the names of the files have a different one")
        folders = {each.name.removeprefix(f"{row['name']}/").partition("/")[0] for each in files}
        named = requested is not None or str(default_version) in folders
        unnamed = None if named or default_version not in contents else default_version
        return await self._models.add_version(str(row["id"]), contents, tags, unnamed=unnamed)

    async def remove(self, request: web.Request) -> web.Response:
        """Remove a version."""
        check_query(request, _VERSION)
        given = request.match_info.get("version") or request.query.get("version")
        if not given:
            raise BadRequest("version: say which one, as .../versions/3 or .../versions?version=3")
        version, force = version_of({"version": given}), flag(request, "force")
        identity, tags = request.match_info["identity"], expected(request)
        work = remove_version(self._components.store, identity, version or 0, tags, force=force)
        row = await finish(work)
        self._note(request, f"removed version {version} of", row["name"])
        return self._ctx.http.respond(Status())
