"""From the files of a request to versions of a model."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from msgspec import Meta

from mataserver import BadRequest, Conflict, InvalidParams, Upload, describe_error
from mataserver_fleet import schema
from mataserver_fleet.layout import (
    backend_of,
    check_no_code,
    check_paths_inside,
    complete_config,
    layout_of,
)
from mataserver_fleet.models import Content, Description
from mataserver_fleet.permissions import Forbidden

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from msgspec import Struct

    from mataserver import Principal
    from mataserver_fleet.files import FileStore
    from mataserver_fleet.layout import Layout
    from mataserver_fleet.options import Settings

FIELDS = frozenset({"files[]", "Files[]", "files", "Files"})
Digests = dict[
    str,
    Annotated[
        str,
        Meta(
            pattern=r"^[0-9a-f]{64}\Z", description="a SHA-256 in 64 hexadecimal digits, lower case"
        ),
    ],
]


@dataclass(frozen=True)
class Chunk:
    """A piece of a file.

    offset: where it begins, in bytes. check: the sha256 in hex of the whole file, with the last
    piece. rest: other files that came with it. more: the file is kept for a version that names it.
    """

    file: Upload
    offset: int
    check: str | None
    rest: tuple[Upload, ...] = ()
    more: bool = False


class UploadStore:
    """Checks files and keeps them. Its methods block."""

    def __init__(self, files: FileStore, settings: Settings) -> None:
        self._files = files
        self._settings = settings

    def contents(
        self,
        model: str,
        given: Sequence[Upload],
        who: Principal,
        known: dict[str, Any] | None,
        default_version: int,
    ) -> dict[int, Content]:
        """Keep the files of an upload; return what its versions are made of.

        ``known`` is the configuration of the version before; a file without a folder is of the
        version ``default_version``. Raises ``BadRequest`` and ``Forbidden``.
        """
        layout = layout_of(model, given, default_version)
        if not layout.versions:
            raise BadRequest("There is no file for a version")
        config = complete_config(model, layout, known)
        self._check(config, layout, who)
        common = {path: self._files.keep(file) for path, file in layout.common.items()}
        return {
            number: Content(
                config,
                {
                    **common,
                    **{f"{number}/{path}": self._files.keep(file) for path, file in files.items()},
                },
            )
            for number, files in layout.versions.items()
        }

    def append(self, model: str, version: int | None, chunk: Chunk, who: Principal) -> Any:
        """Add a chunk; return how many bytes there are, or the whole file's path when it is.

        Raises ``WrongOffset``, ``BadRequest`` for a whole file with another digest.
        """
        name = "\0".join((who.id, model, str(version), chunk.file.name))
        max_bytes = self._settings.max_model_mb * 1_000_000
        path, size = self._files.append(name, chunk.file.path, chunk.offset, max_bytes)
        if chunk.check is None:
            return size
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != chunk.check.lower():
            path.unlink()
            raise BadRequest(f"check: the file's sha256 is {found}; send it anew from offset 0")
        return path

    def kept(self, named: str) -> tuple[Upload, ...]:
        """Return files that were sent before: ``named`` has their digests by their names, as JSON.

        Raises ``InvalidParams``, and ``Conflict`` for one that is not here.
        """
        try:
            digests = msgspec.json.decode(named or "{}", type=Digests)
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise InvalidParams("digests: must be a JSON object of sha256 by name") from None
        found = []
        for name, digest in digests.items():
            path = self._files.path(digest)
            if not path.is_file():
                raise Conflict(f"{name}: no file of this digest is here; send it first")
            found.append(Upload("files[]", name, path, path.stat().st_size))
        return tuple(found)

    def _check(self, config: dict[str, Any], layout: Layout, who: Principal) -> None:
        backend, admin = backend_of(config), who.may("admin")
        check_paths_inside(config)
        if backend in self._settings.code_backends:
            if not admin:
                raise Forbidden(f"{schema.NAME}: only administrators push code ({backend})")
            return
        if backend not in self._settings.backends:
            named = (backend or str(config.get("platform", "")) or "none")[:64]
            raise BadRequest(f"{schema.NAME}: the backend {named!r} is not allowed here")
        names = [*layout.common, *(name for each in layout.versions.values() for name in each)]
        check_no_code(config, names)


def check_fields(fields: Mapping[str, str], form: type[Struct]) -> None:
    """Raise ``InvalidParams`` for a field of a form that there is not: it may be misspelt."""
    for name in fields:
        if name in FIELDS:
            raise InvalidParams(f"{name}: must be a file, not text")
        if name not in form.__struct_fields__:
            raise InvalidParams(f"{name[:64]}: unknown field")


def description_of(fields: Mapping[str, str]) -> str:
    """Return the description that a form has. Raises ``InvalidParams``."""
    try:
        return msgspec.convert(fields.get("description", ""), Description)
    except msgspec.ValidationError as error:
        raise InvalidParams(f"description: {describe_error(error, Description)}") from None


def model_files(files: Sequence[Upload]) -> tuple[Upload, ...]:
    """Return the files of a form. Raises ``InvalidParams`` for one in another field."""
    for each in files:
        if each.field not in FIELDS:
            raise InvalidParams(f"{each.field[:64]}: send files as files[]")
    return tuple(files)


def chunk_of(files: Sequence[Upload], fields: Mapping[str, str]) -> Chunk | None:
    """Return the chunk that a form is, None for one with whole files. Raises ``InvalidParams``."""
    if not fields.get("offset"):
        if fields.get("check"):
            raise InvalidParams("offset: field is required beside check")
        return None
    offset = _number("offset", fields["offset"])
    pieces = [each for each in files if each.name != schema.NAME]
    if len(pieces) != 1:
        raise InvalidParams("files[]: a chunk must be part of a single file")
    check = fields.get("check") or None
    if check is not None and len(check) != 64:
        raise InvalidParams("check: must be the sha256 of the whole file in hex")
    more = fields.get("more") or "false"
    if more not in {"true", "false"}:
        raise InvalidParams("more: must be true or false")
    rest = tuple(each for each in files if each.name == schema.NAME)
    return Chunk(pieces[0], offset, check, rest, more == "true")


def version_of(fields: Mapping[str, str]) -> int | None:
    """Return the version that a form names, None without one. Raises ``InvalidParams``."""
    if not fields.get("version"):
        return None
    found = _number("version", fields["version"])
    if not 1 <= found < 10**9:
        raise InvalidParams("version: must be a number from 1 on")
    return found


def _number(name: str, text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 16):
        raise InvalidParams(f"{name}: must be a number")
    return int(text)
