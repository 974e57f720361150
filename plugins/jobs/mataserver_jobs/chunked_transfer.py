"""Files from a command to the server and back: in parts, so that a break costs one of them."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import tempfile
import time
import zipfile
from typing import TYPE_CHECKING, Any, BinaryIO

from mataserver import Conflict, MataError, NotFound

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from mataserver import Client

PART_BYTES = 8_000_000
RETRY_LIMIT_SECONDS = 120.0
"""How long a server that does not answer is asked again."""
PAUSE_SECONDS = 1.0
_TUS = {"Tus-Resumable": "1.0.0"}
_TRANSIENT_STATUSES = {0, 460, 502, 503, 504}
"""No answer, a part that was damaged on its way, a server that restarts."""


def upload(client: Client, path: Path, tell: Callable[[str], None]) -> str:
    """Upload a file, or the files of a folder as a ZIP; return the upload's id.

    Raises ``NotFound`` for a path that is not there, and what the server refuses.
    """
    if not path.exists():
        raise NotFound(f"there is no {path}; for a path of the server's machine say --on-server")
    with _open(path) as file:
        length = file.seek(0, 2)
        name = base64.b64encode(path.name.encode()).decode()
        begin = {**_TUS, "Upload-Length": str(length), "Upload-Metadata": f"filename {name}"}
        made = client.request("POST", "/v1/uploads", headers=begin)
        place = "/v1/uploads/" + made.headers["Location"].rpartition("/")[2]
        offset = 0
        while offset < length:
            file.seek(offset)
            offset = _send_part(client, place, offset, file.read(PART_BYTES))
            tell(f"sent {100 * offset // length}%")
    return place.rpartition("/")[2]


def _send_part(client: Client, place: str, offset: int, data: bytes) -> int:
    """Send a part, from where the server has it; return where the next one begins."""
    digest = base64.b64encode(hashlib.sha256(data).digest()).decode()
    headers = {
        **_TUS,
        "Upload-Offset": str(offset),
        "Upload-Checksum": f"sha256 {digest}",
        "Content-Type": "application/offset+octet-stream",
    }
    begun = time.monotonic()
    while True:
        try:
            return _offset(client.request("PATCH", place, data=data, headers=headers))
        except Conflict:  # it came, and its answer did not
            return _offset(client.request("HEAD", place, headers=_TUS))
        except MataError as error:
            if (
                error.status not in _TRANSIENT_STATUSES
                or time.monotonic() - begun > RETRY_LIMIT_SECONDS
            ):
                raise
            time.sleep(PAUSE_SECONDS)


def _offset(answer: Any) -> int:
    return int(answer.headers["Upload-Offset"])


@contextlib.contextmanager
def _open(path: Path) -> Iterator[BinaryIO]:
    """Open a file, or a ZIP of a folder's files that is made for this."""
    if not path.is_dir():
        with path.open("rb") as file:
            yield file
        return
    with tempfile.TemporaryFile() as file:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:  # pictures do not shrink
            for each in sorted(path.iterdir()):
                if each.is_file() and not each.name.startswith("."):
                    archive.write(each, each.name)
        yield file


def download(client: Client, place: str, folder: Path, name: str, size: int) -> Path:
    """Download a file in parts; return where it is. One that is there is replaced."""
    target = folder / name
    if not target.resolve().is_relative_to(folder.resolve()):
        raise MataError(f"a file that leads out of the folder: {name}")
    target.parent.mkdir(parents=True, exist_ok=True)
    fresh = target.with_name(target.name + ".part")
    with fresh.open("wb") as file:
        while file.tell() < size:
            last = min(size, file.tell() + PART_BYTES) - 1
            headers: dict[str, Any] = {"Range": f"bytes={file.tell()}-{last}"}
            file.write(client.request("GET", place, headers=headers).body)
    fresh.replace(target)
    return target
