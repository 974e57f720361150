"""What is shown of models: their versions, where they are, how often they were asked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import msgspec
from msgspec import UNSET, Struct, UnsetType

from mataserver_database import Cursors
from mataserver_fleet.counts import CountTotal, ModelCounts
from mataserver_fleet.models import Models
from mataserver_fleet.pages import date, tag
from mataserver_fleet.placements import Placements

if TYPE_CHECKING:
    from collections.abc import Sequence

    import sqlalchemy as sa

    from mataserver_database import Page, Rows
    from mataserver_fleet.store import Store

_CURSORS = Cursors("versions", int)
ModelState = Literal["ready", "partial", "loading", "failed", "unloaded"]


class FileView(Struct, kw_only=True):
    """A file of a version: its path in the model, its bytes, its sha256."""

    path: str
    size: int
    digest: str


class VersionView(Struct, kw_only=True):
    """A version of a model. Counts are over all Tritons, and survive what happens to these.

    Where its files are listed, ``config`` is what its ``config.pbtxt`` says.
    """

    version: str
    inference_count: str
    execution_count: str
    last_inference: str | None
    state: ModelState
    size: int
    digest: str
    create_at: str | None
    files: list[FileView] | UnsetType = UNSET
    config: dict[str, Any] | UnsetType = UNSET


class VersionList(Struct, kw_only=True):
    """A page of the versions of a model, newest first, and how many there are in all."""

    versions: list[VersionView]
    total: int
    next_cursor: str | UnsetType = UNSET


def page_of_versions(versions: list[VersionView], page: Page) -> VersionList:
    """Return a page of a model's versions, newest first. Raises ``InvalidParams``."""
    total = len(versions)
    if page.cursor is not None:
        (last,) = _CURSORS.read(page.cursor)
        versions = [each for each in versions if int(each.version) < last]
    some = versions[page.offset :][: page.limit]
    following: str | UnsetType = UNSET
    if page.offset + len(some) < len(versions):
        following = _CURSORS.write((int(some[-1].version),))
    return VersionList(versions=some, total=total, next_cursor=following)


class PlacementView(Struct, kw_only=True):
    """A model at a Triton: the versions that it serves there, those that are wanted, the reason."""

    id: int
    name: str
    ip: str
    port: str
    state: str
    versions: list[str]
    wanted: list[str]
    reason: str
    since: str | None


class ModelView(Struct, kw_only=True):
    """A model. ``reason`` is why it is not ready everywhere that it is wanted.

    ``everywhere`` are the versions that are wanted at all Tritons that there are and will be.
    ``tag`` is the model's ``ETag``: a list has it too, to change what was shown and nothing newer.
    """

    id: int
    name: str
    path: str
    description: str
    latest_version: str | None
    inference_count: str
    execution_count: str
    last_inference: str | None
    state: ModelState
    reason: str
    versions: list[VersionView]
    tritons: list[PlacementView]
    everywhere: list[str]
    create_at: str | None
    tag: str


class ChangedModel(ModelView, kw_only=True):
    """A model that was changed."""

    status: str = "ok"


class ModelDetail(ModelView, kw_only=True):
    """A model, and what each Triton that serves it tells of it, by the Triton's address."""

    config: dict[str, Any]


class ModelViews:
    """Makes what is shown. ``full`` is whether reasons are shown whole: they hold tracebacks."""

    def __init__(self, store: Store, *, full: bool) -> None:
        self._store = store
        self._full = full

    async def page(self, page: Page) -> tuple[list[dict[str, Any]], Rows]:
        """Return the fields of a ``ModelView`` for each of a page. Raises ``InvalidParams``."""
        async with self._store.snapshot() as seen:
            rows = await Models(seen).page(page)
            return await self._shown(seen, rows.found), rows

    async def one(self, identity: str, *, files: bool = False) -> tuple[dict[str, Any], int]:
        """Return those of a model, by id or name, and its revision. Raises ``NotFound``."""
        async with self._store.snapshot() as seen:
            row = await Models(seen).one(identity)
            (shown,) = await self._shown(seen, [row], files=files)
            return shown, row["revision"]

    async def _shown(
        self, seen: Store, rows: Sequence[sa.RowMapping], *, files: bool = False
    ) -> list[dict[str, Any]]:
        ids, models = [row["id"] for row in rows], Models(seen)
        versions = await models.versions(ids)
        placed = await Placements(seen).of(ids)
        counted = await ModelCounts(seen).totals(ids)
        listed = await models.files([row["id"] for row in versions]) if files else None
        return [
            self._model(
                row,
                [each for each in versions if each["model_id"] == row["id"]],
                [each for each in placed if each["model_id"] == row["id"]],
                counted.get(row["id"], {}),
                listed,
            )
            for row in rows
        ]

    def _model(
        self,
        row: sa.RowMapping,
        versions: Sequence[sa.RowMapping],
        placed: Sequence[sa.RowMapping],
        counted: dict[int, CountTotal],
        files: Sequence[sa.RowMapping] | None,
    ) -> dict[str, Any]:
        tritons = [self._placement(each) for each in placed]
        wanted = [view for view, each in zip(tritons, placed, strict=True) if each["wanted"]]
        total = CountTotal()
        for each in counted.values():  # those of versions that are gone, too
            total = total.plus(each)
        return {
            "id": row["id"],
            "name": row["name"],
            "path": row["name"],
            "description": row["description"],
            "latest_version": str(versions[0]["version"]) if versions else None,
            **_counts(total),
            "state": state_of([view.state for view in wanted]),
            "reason": _reason(wanted),
            "versions": [_version(each, wanted, counted, files) for each in versions],
            "tritons": [view for view in tritons if view in wanted or view.state != "unloaded"],
            "everywhere": _numbers(row["everywhere_versions"]) if row["everywhere"] else [],
            "create_at": date(row["created_at"]),
            "tag": tag(row["revision"]),
        }

    def _placement(self, row: sa.RowMapping) -> PlacementView:
        reason = row["reason"] if self._full else row["reason"].partition("\n")[0][:300]
        state, why = _state(row)
        return PlacementView(
            id=row["triton_id"],
            name=row["name"],
            ip=row["host"],
            port=str(row["port"]),
            state=state,
            versions=_numbers(row["serving"]),
            wanted=_numbers(row["versions"]),
            reason=why or reason,
            since=date(row["changed_at"]),
        )


def state_of(states: Sequence[str]) -> ModelState:
    """Return the state of a whole from those of its parts where it is wanted."""
    if not states:
        return "unloaded"
    if all(each == "ready" for each in states):
        return "ready"
    if any(each == "ready" for each in states):
        return "partial"
    return "loading" if "loading" in states else "failed"


def _state(row: sa.RowMapping) -> tuple[str, str]:
    """Return the state of a placement, and the reason, where the Triton gives one."""
    away, is_pending = row["triton_state"], row["done"] < row["generation"]
    # One that is pending is loading at a Triton that is not ready: it may be busy with just that.
    if row["wanted"] and away != "ready" and (away == "offline" or not is_pending):
        return "failed", f"The Triton is {away}"
    if is_pending:
        return ("loading" if row["wanted"] else "unloading"), ""
    return row["state"], ""


def _reason(wanted: Sequence[PlacementView]) -> str:
    reasons = [f"{view.name}: {view.reason}" for view in wanted if view.reason]
    return reasons[0] if reasons else ""


def _version(
    row: sa.RowMapping,
    wanted: Sequence[PlacementView],
    counted: dict[int, CountTotal],
    files: Sequence[sa.RowMapping] | None,
) -> VersionView:
    name = str(row["version"])
    own = [view for view in wanted if name in view.wanted or name in view.versions]
    states = [
        "ready"
        if name in view.versions and view.state != "loading" and not view.reason.startswith("The ")
        else view.state
        for view in own
    ]
    shown = [
        FileView(path=each["path"], size=each["size"], digest=each["digest"])
        for each in files or ()
        if each["version_id"] == row["id"]
    ]
    return VersionView(
        version=name,
        **_counts(counted.get(row["version"], CountTotal())),
        state=state_of(states),
        size=row["size"],
        digest=row["digest"],
        create_at=date(row["created_at"]),
        files=UNSET if files is None else shown,
        config=UNSET if files is None else msgspec.json.decode(row["config"]),
    )


def _counts(total: CountTotal) -> dict[str, Any]:
    return {
        "inference_count": str(total.inferences),
        "execution_count": str(total.executions),
        "last_inference": date(total.last or None),
    }


def _numbers(text: str) -> list[str]:
    return [str(each) for each in msgspec.json.decode(text)]
