"""The download child: a module for ``run_process``, with ``config`` or ``download`` and an id.

It writes ``messages`` to its standard output. The only module of the core that imports
huggingface_hub.

huggingface_hub discards a partial file when its process ends, so large files are downloaded here,
to the cache's own paths (``blobs/<hash>.incomplete``, under the library's own lock), resumed by
Range requests and verified by their hash. Everything else is left to ``snapshot_download``: it
finds the large files present, and adds the small ones and the links.
"""

from __future__ import annotations

import contextlib
import fcntl
import glob
import hashlib
import io
import os
import sys
import traceback
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import TYPE_CHECKING, BinaryIO

from huggingface_hub import HfApi, constants, hf_hub_url, snapshot_download
from huggingface_hub.file_download import http_get
from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined] # documented there

from mataserver.processes.child_main import Parent
from mataserver.sources import cache
from mataserver.sources.failures import RepositoryError, failure
from mataserver.sources.local import MAX_CONFIG_BYTES
from mataserver.sources.messages import Completed, Progress
from mataserver.sources.meter import Meter, check_space
from mataserver.sources.selection import RepoFile, has_weights, select

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from mataserver.sources.messages import Message

_LIBRARY = "mataserver"
_WORKERS = 4
# Write granularity. The library's 10 MB would lose as much at an interruption, and on a slow line
# would look like a stall of a minute.
_CHUNK_BYTES = 256 * 1024
_HASH_BYTES = 64 * 1024 * 1024


class ProgressMeter(Meter):
    """Measures a repository's files in the cache."""

    def __init__(
        self, files: list[RepoFile], blobs: Path, report: Callable[[Message], None]
    ) -> None:
        super().__init__(self.measure, report)
        self._files = files
        self._blobs = blobs
        self._total = sum(file.size for file in files)

    def measure(self) -> Progress:
        """Return the current progress."""
        done = [min(self._size(file), file.size) for file in self._files]
        present = [(self._blobs / file.blob).exists() for file in self._files]
        return Progress(
            done_bytes=sum(done),
            total_bytes=self._total,
            done_files=sum(present),
            total_files=len(self._files),
        )

    def _size(self, file: RepoFile) -> int:
        for name in (file.blob, file.blob + ".incomplete"):
            try:
                return (self._blobs / name).stat().st_size
            except FileNotFoundError:
                continue
        return 0


class Repository:
    """One repository of the hub, at its newest commit."""

    def __init__(self, repo_id: str) -> None:
        api = HfApi(library_name=_LIBRARY)
        info = api.model_info(
            repo_id, files_metadata=True, timeout=float(constants.HF_HUB_ETAG_TIMEOUT)
        )
        if info.sha is None:
            raise RepositoryError(f"the hub reports no revision of {repo_id}")
        self.repo_id = repo_id
        self.commit = info.sha
        self.files = [
            RepoFile(
                name=file.rfilename,
                size=file.size or 0,
                blob=file.lfs.sha256 if file.lfs else file.blob_id or file.rfilename,
                sha256=file.lfs.sha256 if file.lfs else None,
            )
            for file in info.siblings or ()
        ]
        self.directory = cache.repository_directory(repo_id)
        self.blobs = self.directory / "blobs"

    def config(self) -> str:
        """Return the text of ``config.json``."""
        file = self._config_file()
        if file.size > MAX_CONFIG_BYTES:
            raise RepositoryError(f"the config.json of {self.repo_id} is too large")
        buffer = io.BytesIO()
        self._get(file, buffer, 0)
        return buffer.getvalue().decode(errors="replace")

    def download(self, report: Callable[[Message], None]) -> Path:
        """Download the relevant files; return the snapshot's directory."""
        files = select(self.files)
        self._config_file()
        if not has_weights(files):
            raise RepositoryError(f"{self.repo_id} holds no weights")
        meter = ProgressMeter(files, self.blobs, report)
        self._check_space(meter.measure())
        with meter:
            self._fetch_large(files, meter.alive)
            snapshot = self._complete(files)
        self._point_main_to(snapshot)
        return snapshot

    def _config_file(self) -> RepoFile:
        for file in self.files:
            if file.name == "config.json":
                return file
        raise RepositoryError(f"{self.repo_id} has no config.json, so its kind is unknown")

    def _check_space(self, progress: Progress) -> None:
        needed = progress.total_bytes - progress.done_bytes
        place = self.directory
        while not place.exists():
            place = place.parent
        if needed:
            check_space(needed, place, self.repo_id)

    def _fetch_large(self, files: list[RepoFile], heartbeat: Callable[[], None]) -> None:
        # Without `with`: the first failure exits the process, and thereby the other downloads.
        pool = ThreadPoolExecutor(_WORKERS)
        large = {file.blob: file for file in files if file.sha256}
        for future in as_completed(
            [pool.submit(self._fetch, file, heartbeat) for file in large.values()]
        ):
            future.result()

    def _fetch(self, file: RepoFile, heartbeat: Callable[[], None]) -> None:
        blob = self.blobs / file.blob
        partial = blob.with_name(file.blob + ".incomplete")
        self.blobs.mkdir(parents=True, exist_ok=True)
        with self._locked(file):
            if blob.exists():
                return
            with partial.open("ab") as stream:
                if stream.tell() > file.size:
                    stream.truncate(0)
                self._get(file, stream, stream.tell())
                stream.flush()
                os.fsync(stream.fileno())
            if _sha256(partial, heartbeat) != file.sha256:
                partial.unlink()
                raise RepositoryError(
                    f"a file of {self.repo_id} has arrived damaged; pull it again"
                )
            partial.replace(blob)

    @contextlib.contextmanager
    def _locked(self, file: RepoFile) -> Iterator[None]:
        lock = self.directory.parent / ".locks" / self.directory.name / f"{file.blob}.lock"
        lock.parent.mkdir(parents=True, exist_ok=True)
        with lock.open("ab") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)
            yield

    def _get(self, file: RepoFile, stream: BinaryIO, offset: int) -> None:
        headers = build_hf_headers(library_name=_LIBRARY)
        if file.sha256:
            # A server that compresses the response cannot serve ranges.
            headers["Accept-Encoding"] = "identity"
        url = hf_hub_url(self.repo_id, file.name, revision=self.commit)
        http_get(url, stream, resume_size=offset, headers=headers, expected_size=file.size)

    def _complete(self, files: list[RepoFile]) -> Path:
        snapshot = self.directory / "snapshots" / self.commit
        _remove_dead_links(snapshot)
        snapshot_download(
            self.repo_id,
            revision=self.commit,
            allow_patterns=[glob.escape(file.name) for file in files],
            max_workers=_WORKERS,
            library_name=_LIBRARY,
        )
        missing = [file for file in files if not (snapshot / file.name).exists()]
        if missing or not cache.is_complete(snapshot):
            raise RepositoryError(f"{self.repo_id} lacks some of its own files")
        return snapshot

    def _point_main_to(self, snapshot: Path) -> None:
        # Last, so that the snapshot referenced by main is always complete.
        reference = self.directory / "refs" / "main"
        reference.parent.mkdir(parents=True, exist_ok=True)
        temporary = reference.with_name(f"main.{os.getpid()}.tmp")
        temporary.write_text(snapshot.name)
        temporary.replace(reference)


def _sha256(path: Path, heartbeat: Callable[[], None]) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while part := stream.read(_HASH_BYTES):
            digest.update(part)
            heartbeat()
    return digest.hexdigest()


def _remove_dead_links(snapshot: Path) -> None:
    # Left by manual deletion of blobs; they would make the snapshot incomplete.
    for file in snapshot.rglob("*"):
        if file.is_symlink() and not file.exists():
            file.unlink()


def _execute(command: str, repo_id: str, report: Callable[[Message], None]) -> Message:
    try:
        repository = Repository(repo_id)
        if command == "config":
            return Completed(repository.config())
        return Completed(str(repository.download(report)))
    except Exception as error:  # noqa: BLE001 - the worker's edge: whatever it is becomes an answer
        traceback.print_exc()
        return failure(error, repo_id)


def main() -> None:
    """Execute one command and exit."""
    parent = Parent.on_pipes(sys.argv[1:])
    constants.DOWNLOAD_CHUNK_SIZE = _CHUNK_BYTES
    command, repo_id = parent.arguments
    parent.send(_execute(command, repo_id, parent.send))
    # Not sys.exit: it would wait for downloads still running after a failure.
    os._exit(0)
