"""Files that no ``infer`` job reads, known by how they begin: it is told before a job is made."""

from __future__ import annotations

import contextlib
import re
import zipfile
from typing import TYPE_CHECKING

from mataserver import BadRequest

if TYPE_CHECKING:
    from pathlib import Path

_HEAD = 512
_NEEDED = "a job takes a video, or pictures in a ZIP file"
_SIGNS = tuple(
    (re.compile(sign), told)
    for sign, told in (
        (rb"\Z", f"empty: {_NEEDED}"),
        (
            rb"\xff\xd8\xff|\x89PNG\r\n|RIFF[\s\S]{4}WEBP|II\*\0|MM\0\*|BM[\s\S]{4}\0{4}",
            f"a single picture: POST /v1/infer answers it; {_NEEDED}",
        ),
        (rb"%PDF-", f"a PDF: {_NEEDED}; its pages must be made into pictures first"),
        (
            rb"\x1f\x8b|7z\xbc\xaf\x27\x1c|Rar!|BZh|\xfd7zXZ\0|\x28\xb5\x2f\xfd|[\s\S]{257}ustar",
            f"an archive other than ZIP: {_NEEDED}",
        ),
    )
)


def refuse_other(path: Path) -> None:
    """Raise ``BadRequest``, which names what a file is, for one that is seen to be of no use.

    Of any other kind, and of a folder, nothing is said: a job's process looks into those.
    """
    if not path.is_file() or zipfile.is_zipfile(path):  # whatever a ZIP begins with
        return
    head = b"\0"
    # A file that may not be read fails the job, as a folder's picture fails its item.
    with contextlib.suppress(OSError), path.open("rb") as file:
        head = file.read(_HEAD)
    for sign, told in _SIGNS:
        if sign.match(head):
            raise BadRequest(f"The file is {told}")
