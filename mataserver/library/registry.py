"""The registered models: ``model_registry.json`` in the data directory.

The command line and a running server edit this file concurrently, so every change is made to the
newest copy under a lock, and replaces the file atomically. A corrupt file is never overwritten: it
may still be repaired.
"""

from __future__ import annotations

import contextlib
import fcntl
import math
import os
from typing import TYPE_CHECKING, Annotated, TypeAlias

import msgspec
from msgspec import UNSET, Meta, UnsetType

from mataserver.config.storage import os_errors_as, sync, temporary_file
from mataserver.contract.source import SOURCE_NAME
from mataserver.errors import MataError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

VERSION = 1
_TEMPORARY = ".tmp"

_Signature: TypeAlias = tuple[int, int, int]


class RegistryError(MataError):
    """500: the registry cannot be read or written; 507 on a full disk, 503 without descriptors."""

    status = 500


class Entry(
    msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True
):
    """One registered model.

    task:      the task that it serves.
    source:    "hf" (a repository of the hub), "pip" (weights come with a package), "local", or the
               name of a plugin's source.
    pulled_at: the time of registration, in Unix seconds.
    path:      its directory or file; none for "hf" and "pip".
    converted: the directory of its converted copy, from which it is served, if any.
    """

    task: str
    source: Annotated[str, Meta(pattern=SOURCE_NAME, description="small letters, digits and _")]
    pulled_at: float
    path: str | UnsetType = UNSET
    converted: str | UnsetType = UNSET

    def __post_init__(self) -> None:
        """Reject entries that ``add`` would not write."""
        if not math.isfinite(self.pulled_at):
            raise ValueError("pulled_at is not a time")
        if (self.source in {"hf", "pip"}) != (self.path is UNSET):
            has = "has no path" if self.source in {"hf", "pip"} else "has a path"
            raise ValueError(f"a {self.source} model {has}")


class _File(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    version: int
    models: dict[str, Entry]


class Registry:
    """The registry file at ``path``; the first ``add`` creates its directory (mode 0700).

    Safe for concurrent use by several threads and processes.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._cached: tuple[_Signature | None, dict[str, Entry]] = (None, {})

    def entries(self) -> dict[str, Entry]:
        """Return the models by name; empty without a file.

        Parses the file only if it has changed. Raises ``RegistryError``.
        """
        signature, known = self._cached
        if self._signature() != signature:
            known = self._read()
        return dict(known)

    def last_good(self) -> dict[str, Entry]:
        """Return the last copy that was read successfully, without accessing the file.

        It lets a running server continue when the file becomes corrupt.
        """
        return dict(self._cached[1])

    def get(self, name: str) -> Entry | None:
        """Return one model, or None. Raises ``RegistryError``."""
        return self.entries().get(name)

    def add(self, name: str, entry: Entry) -> None:
        """Register a model, or replace its entry. Raises ``RegistryError``."""

        def change(models: dict[str, Entry]) -> bool:
            models[name] = entry
            return True

        self._change(change)

    def remove(self, name: str) -> bool:
        """Remove a model; return whether it was registered. Raises ``RegistryError``."""
        return self._change(lambda models: models.pop(name, None) is not None)

    def _signature(self) -> _Signature | None:
        with self._os_errors("read"):
            try:
                return _signature_of(self.path.stat())
            except FileNotFoundError:
                return None

    def _read(self) -> dict[str, Entry]:
        with self._os_errors("read"):
            try:
                with self.path.open("rb") as file:
                    signature = _signature_of(os.fstat(file.fileno()))
                    content = file.read()
            except FileNotFoundError:
                self._cached = (None, {})
                return {}
        models = _parse(content)
        self._cached = (signature, models)
        return models

    def _change(self, change: Callable[[dict[str, Entry]], bool]) -> bool:
        with self._os_errors("write"):
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with self._locked():
            models = dict(self._read())
            changed = change(models)
            if changed:
                self._write(models)
        return changed

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        # A separate lock file: replacing the registry would detach a lock on the registry itself.
        lock = self.path.with_name(self.path.name + ".lock")
        with self._os_errors("write"):
            descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            with self._os_errors("write"):
                self._give_to_owner(descriptor)
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _write(self, models: dict[str, Entry]) -> None:
        content = msgspec.json.encode(_File(version=VERSION, models=models))
        content = msgspec.json.format(content, indent=2) + b"\n"
        with self._os_errors("write"):
            self._remove_temporary_files()
            new = temporary_file(self.path.parent, self.path.name + ".", _TEMPORARY)
            with new as (file, temporary):
                file.write(content)
                file.flush()
                self._keep_mode(file.fileno())
                self._give_to_owner(file.fileno())
                os.fsync(file.fileno())
                signature = _signature_of(os.fstat(file.fileno()))
                temporary.replace(self.path)
            self._cached = (signature, models)
            sync(self.path.parent)

    def _remove_temporary_files(self) -> None:
        """Remove the temporary files of killed writers; the caller holds the lock."""
        for leftover in self.path.parent.glob(f"{self.path.name}.*{_TEMPORARY}"):
            with contextlib.suppress(OSError):
                leftover.unlink()

    def _keep_mode(self, descriptor: int) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.fchmod(descriptor, self.path.stat().st_mode & 0o777)

    def _give_to_owner(self, descriptor: int) -> None:
        # `sudo mataserver pull` must not leave a file that the server's user cannot read.
        if os.geteuid() == 0:
            owner = self.path.parent.stat()
            os.fchown(descriptor, owner.st_uid, owner.st_gid)

    def _os_errors(self, verb: str) -> contextlib.AbstractContextManager[None]:
        return os_errors_as(f"could not {verb} the model registry", self.path, RegistryError)


def _signature_of(status: os.stat_result) -> _Signature:
    return status.st_mtime_ns, status.st_size, status.st_ino


def _parse(content: bytes) -> dict[str, Entry]:
    try:
        file = msgspec.json.decode(content, type=_File)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise _corrupt(str(error)) from error
    if file.version != VERSION:
        raise _corrupt(f"version {file.version} is unknown, this server writes version {VERSION}")
    return file.models


def _corrupt(reason: str) -> RegistryError:
    return RegistryError(
        f"the model registry is corrupt: {reason}; repair or remove model_registry.json"
    )
