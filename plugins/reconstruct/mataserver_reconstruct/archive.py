"""Untrusted ZIP archives: checks them, and reads the photographs in them.

Nothing is ever unpacked under a name from the archive; names are checked all the same, because an
archive with malicious names is not one of photographs. Every error names the entry.
"""

from __future__ import annotations

import re
import stat
import struct
import zipfile
import zlib
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from mataserver import BadRequest
from mataserver_jobs import directory
from mataserver_jobs.entry_names import decoded_name

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from mataserver import MataError
    from mataserver_reconstruct.spec import Limits

PICTURES = frozenset(
    ".jpg .jpeg .jpe .png .tif .tiff .bmp .webp .avif .heic .heif".split()  # noqa: SIM905 - reads well
)
_OTHER_FORMATS = frozenset(
    ".dng .cr2 .cr3 .crw .nef .nrw .arw .sr2 .raf .orf .rw2 .pef .srw .x3f .iiq .3fr .gif .jxl .jp2 .psd".split()  # noqa: E501, SIM905 - the same
)
_ARCHIVES = frozenset(".zip .7z .rar .tar .gz .tgz .bz2 .xz .zst .lz4 .cab .iso".split())  # noqa: SIM905 - the same
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_MAX_NAME = 1_000
_SMALL = 1_000_000  # bytes below which a ratio is meaningless: a blank picture compresses well
_CHUNK = 1 << 20
_ZIP_ERRORS = (
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    OSError,
    ValueError,
    NotImplementedError,
    RuntimeError,
    struct.error,
)


def is_picture(name: str) -> bool:
    """Whether a name is that of a photograph; hidden and system files are not."""
    return not _is_hidden(name) and PurePosixPath(name).suffix.lower() in PICTURES


def is_of_other_format(name: str) -> bool:
    """Whether a name is that of a photograph that is not read, as raw ones are."""
    return not _is_hidden(name) and PurePosixPath(name).suffix.lower() in _OTHER_FORMATS


def _is_hidden(name: str) -> bool:
    parts = PurePosixPath(name).parts
    return any(part.startswith(".") or part == "__MACOSX" for part in parts)


def _is_read(entry: zipfile.ZipInfo) -> bool:
    return not entry.is_dir() and is_picture(entry.filename)


def inspect(file: Path, limits: Limits) -> list[zipfile.ZipInfo]:
    """Check an archive's directory and return its photographs in order.

    Raises ``BadRequest`` for a file that is not a ZIP, and for an entry that is refused.
    """
    directory.check(file, limits.max_entries)
    with _open_zip(file) as archive:
        entries = archive.infolist()
        _check_names(entries)
        for entry in entries:
            _check_entry(entry, limits)
        _check_sizes(file, entries, limits)
    return [entry for entry in entries if _is_read(entry)]


def pictures(file: Path) -> Iterator[tuple[str, bytes]]:
    """Yield the photographs of an archive that was inspected: name and bytes, one by one.

    Raises ``BadRequest`` for an entry whose bytes are damaged.
    """
    with _open_zip(file) as archive:
        for entry in archive.infolist():
            if not _is_read(entry):
                continue
            try:
                data = directory.read(archive, entry)
            except _ZIP_ERRORS:
                raise _entry_error(entry, "is damaged") from None
            yield entry.filename, data


def names(file: Path) -> list[str]:
    """Return the names of the files in an archive that was inspected."""
    with _open_zip(file) as archive:
        return [entry.filename for entry in archive.infolist() if not entry.is_dir()]


def checksums(file: Path, limits: Limits) -> list[tuple[str, int]]:
    """Return the names and CRC-32s of an archive's entries, from its directory.

    Raises ``BadRequest`` for a file that is not a ZIP, and for too many entries.
    """
    directory.check(file, limits.max_entries)
    with _open_zip(file) as archive:
        return [(entry.filename, entry.CRC) for entry in archive.infolist()]


def verify_contents(file: Path, entries: list[zipfile.ZipInfo]) -> None:
    """Unpack inspected entries without storing them, a chunk at a time.

    So damage inside is reported to the client that uploads it, and not only by the job. Raises
    ``BadRequest``.
    """
    with _open_zip(file) as archive:
        for entry in entries:
            try:
                with archive.open(entry) as packed:
                    while packed.read(_CHUNK):
                        pass
            except _ZIP_ERRORS:
                raise _entry_error(entry, "is damaged") from None


def _open_zip(file: Path) -> zipfile.ZipFile:
    """Open an archive, with the entries' names decoded."""
    try:
        archive = zipfile.ZipFile(file)
    except _ZIP_ERRORS:
        if file.stat().st_size == 0:
            raise BadRequest("the archive is empty: it has no bytes") from None
        raise BadRequest("the file is not a ZIP archive, or a damaged one") from None
    for entry in archive.infolist():  # zipfile still finds an entry by its original name
        entry.filename = decoded_name(entry)
    return archive


def _entry_error(entry: zipfile.ZipInfo, why: str) -> MataError:
    name = _CONTROL.sub("?", entry.orig_filename)
    return BadRequest(f"the archive's entry {name[:200]!r} {why}")


def _check_names(entries: list[zipfile.ZipInfo]) -> None:
    seen = set()
    for entry in entries:
        if entry.filename in seen:
            raise _entry_error(entry, "stands in it twice")
        seen.add(entry.filename)


def _check_entry(entry: zipfile.ZipInfo, limits: Limits) -> None:
    """Check an entry's names and kind. Raises ``BadRequest``."""
    for name in dict.fromkeys((entry.orig_filename, entry.filename)):  # they may differ
        _check_name(entry, name)
    kind = stat.S_IFMT(entry.external_attr >> 16)
    if kind and kind not in {stat.S_IFREG, stat.S_IFDIR}:
        raise _entry_error(entry, "is a link or a device, not a file")
    if entry.flag_bits & 0x1:
        raise _entry_error(entry, "is encrypted: send the archive without a password")
    if is_picture(entry.filename) and entry.file_size > limits.max_image_bytes:
        raise _entry_error(
            entry,
            f"has {entry.file_size} bytes; a photograph of at most "
            f"{limits.max_image_bytes} is taken",
        )
    _check_packing(entry, limits)


def _check_name(entry: zipfile.ZipInfo, name: str) -> None:
    """Check one of an entry's names. Raises ``BadRequest``."""
    if _CONTROL.search(name) or not name:
        raise _entry_error(entry, "has control characters in its name")
    if len(name) > _MAX_NAME:
        raise _entry_error(entry, "has a name that is too long")
    if name.startswith(("/", "\\")) or re.match(r"[A-Za-z]:", name):
        raise _entry_error(entry, "has an absolute path")
    if ".." in re.split(r"[/\\]", name):
        raise _entry_error(entry, "leads out of the archive")
    if PurePosixPath(name).suffix.lower() in _ARCHIVES:
        raise _entry_error(entry, "is an archive itself: send the photographs in one ZIP")


def _check_packing(entry: zipfile.ZipInfo, limits: Limits) -> None:
    """Refuse ZIP bombs and unsupported compression methods. Raises ``BadRequest``."""
    large = entry.file_size > _SMALL
    if large and entry.file_size > limits.max_ratio * max(1, entry.compress_size):
        raise _entry_error(
            entry, f"unpacks to over {limits.max_ratio} times its size: that is no photograph"
        )
    if _is_read(entry) and entry.compress_type not in directory.PACKED_BY:
        raise _entry_error(entry, "is packed by a method that is not supported; use deflate")


def _check_sizes(file: Path, entries: list[zipfile.ZipInfo], limits: Limits) -> None:
    """Refuse an archive whose entries overlap, or are too many. Raises ``BadRequest``."""
    if sum(entry.compress_size for entry in entries) > file.stat().st_size:
        raise _entry_error(
            max(entries, key=lambda entry: entry.compress_size),
            "overlaps others: they claim more bytes than the archive has",
        )
    total = 0
    for entry in entries:
        total += entry.file_size
        if total > limits.max_bytes:
            raise _entry_error(
                entry, f"brings the archive to over {limits.max_bytes} bytes unpacked"
            )
    count = 0
    for entry in entries:
        count += _is_read(entry)
        if count > limits.max_images:
            raise _entry_error(entry, f"is one photograph too many; at most {limits.max_images}")
