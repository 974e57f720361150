"""The shared state of one reconstruction's steps: its photographs, its database, its spec."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from mataserver_reconstruct import archive, database_check, intake, stages
from mataserver_reconstruct import photos as photographs
from mataserver_reconstruct.files import MARK, PHOTOS

if TYPE_CHECKING:
    from collections.abc import Callable

    from mataserver_reconstruct.intake import Source
    from mataserver_reconstruct.job import Job
    from mataserver_reconstruct.native import Native
    from mataserver_reconstruct.photos import Photo
    from mataserver_reconstruct.spec import Limits, Spec
    from mataserver_reconstruct.weights import Matchers

    Progress = Callable[[float, float, str], None]

MATCHER_FOLDER = "found"
"""The folder of the matchers' files beside COLMAP's database."""


@dataclass(frozen=True)
class Workspace:
    """One reconstruction in progress.

    photos:   the readable ones.
    matchers: the settings of the learned ones.
    name:     of COLMAP's database in ``work``.
    """

    work: Path
    photos: list[Photo]
    spec: Spec
    native: Native
    matchers: Matchers
    name: str = "database"

    @property
    def database(self) -> Path:
        """COLMAP's database."""
        return self.work / f"{self.name}.db"

    @property
    def folder(self) -> Path:
        """The folder of the photographs."""
        return self.work / PHOTOS

    @property
    def threads(self) -> int:
        """The number of threads for features and matches."""
        return photographs.threads(self.spec)

    def cameras(self) -> list[list[Photo]]:
        """Return the photographs grouped by camera, as the spec defines."""
        groups: dict[object, list[Photo]] = {}
        for photo in self.photos:
            size = (photo.width, photo.height)
            keys = {"auto": photo.camera, "single": size, "per_image": photo.file}
            groups.setdefault(keys[self.spec.camera], []).append(photo)
        return list(groups.values())


def discard_stale(job: Job, spec: Spec, matchers: Matchers) -> None:
    """Remove the state of an attempt with other options or other files from ``job.work``.

    State of the same options and files is kept, so that an attempt continues the last one, but no
    damaged database: every attempt would fail by it.
    """
    files = [
        (source.name, *_state(source, spec.limits)) for source in intake.find_sources(job.input)
    ]
    asked = msgspec.json.encode([spec.feature_options, matchers, files])
    mark = job.work / MARK
    digest = hashlib.sha256(asked).hexdigest().encode()
    if mark.exists() and mark.read_bytes() == digest:
        _discard_damaged(job)
        return
    for path in (*job.work.glob("*.db*"), *job.work.glob("photos.json*")):
        path.unlink()
    shutil.rmtree(job.work / MATCHER_FOLDER, ignore_errors=True)
    photographs.write_atomically(mark, digest)


def _discard_damaged(job: Job) -> None:
    """Remove the databases that SQLite finds damaged: what is in them is found again.

    That COLMAP opens one tells nothing: it does not with a full disk, either.
    """
    for path in job.work.glob("*.db"):
        if _is_damaged(path):
            told = f"{path.name} of the last attempt is damaged: what was in it is found again"
            job.report(stages.EXTRACTING, 0, 1, told)
            for each in job.work.glob(f"{path.name}*"):
                each.unlink()


def _is_damaged(database: Path) -> bool:
    command = [sys.executable, "-I", str(Path(database_check.__file__)), str(database)]
    try:
        ended = subprocess.run(command, stdin=subprocess.DEVNULL, check=False)  # noqa: S603 - ours
    except OSError:  # there is no process to be had: it is not known
        return False
    return ended.returncode == database_check.DAMAGED


def _state(source: Source, limits: Limits) -> tuple[int, object]:
    """Return what changes with a source: its size, and when a photograph was written.

    Uncompressed ones are of one size. Archives reach another node of a cluster without their times:
    the checksums in them are taken instead.
    """
    found = source.path.stat()
    if source.is_archive:
        return found.st_size, archive.checksums(source.path, limits)
    return found.st_size, found.st_mtime_ns
