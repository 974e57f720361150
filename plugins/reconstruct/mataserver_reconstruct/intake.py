"""Reads a job's input: archives, folders and files become a list of named photographs."""

from __future__ import annotations

import re
import zipfile
from collections import Counter
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, NamedTuple

from mataserver import BadRequest
from mataserver_reconstruct import archive
from mataserver_reconstruct.files import MARK

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mataserver_reconstruct.spec import Limits


class Source(NamedTuple):
    """One file of an input: an archive, or a photograph with its path in the input."""

    path: Path
    name: str
    is_archive: bool


def list_photos(folder: Path, limits: Limits) -> tuple[list[Source], list[str]]:
    """Check an input and return its sources and the paths of its photographs, in order.

    Raises ``BadRequest`` for an archive that is refused, too many photographs, and none.
    """
    sources = list(find_sources(folder))
    paths: list[str] = []
    many = sum(source.is_archive for source in sources) > 1
    for source in sources:
        if not source.is_archive:
            paths.append(source.name)
            continue
        inside = archive.inspect(source.path, limits)
        before = f"{Path(source.name).stem}/" if many else ""
        paths += [before + entry.filename for entry in inside]
    if not paths:
        kinds = ", ".join(sorted(archive.PICTURES))
        raise BadRequest(f"it contains no photographs; files with these endings are: {kinds}")
    if len(paths) > limits.max_images:
        raise BadRequest(f"{len(paths)} photographs are too many; at most {limits.max_images}")
    return sources, paths


def read(sources: list[Source], limits: Limits) -> Iterator[bytes]:
    """Yield the bytes of the photographs of ``list_photos``, in its order, one by one."""
    for source in sources:
        if source.is_archive:
            for _, data in archive.pictures(source.path):
                yield data
        else:
            yield _read_file(source.path, limits)


def left_out(folder: Path) -> list[str]:
    """Return the names of photographs in a format that is not read, of those without a twin.

    Many cameras write a raw photograph and a JPEG of the same name.
    """
    names = []
    for path in _walk(folder, set()):
        name = path.relative_to(folder).as_posix()
        names += archive.names(path) if _is_archive(path) else [name]
    twins = {_stem(name) for name in names if archive.is_picture(name)}
    lost = [name for name in names if archive.is_of_other_format(name) and _stem(name) not in twins]
    return sorted((PurePosixPath(name).name for name in lost), key=natural_key)


def _stem(name: str) -> str:
    return str(PurePosixPath(name).with_suffix("")).casefold()


def _read_file(path: Path, limits: Limits) -> bytes:
    """Return the bytes of a photograph; none where it is too large or its disk does not give them.

    It is then reported as unreadable: the other photographs of a folder can still be used.
    """
    try:
        return b"" if path.stat().st_size > limits.max_image_bytes else path.read_bytes()
    except OSError:
        return b""


def unique_names(paths: list[str]) -> list[str]:
    """Return unique names for photographs.

    A file's own name where it is unique, else its path.
    """
    own = [PurePosixPath(path).name for path in paths]
    count = Counter(own)
    names = [path if count[name] > 1 else name for path, name in zip(paths, own, strict=True)]
    taken: set[str] = set()
    for at, name in enumerate(names):
        number, fresh = 2, name
        while fresh in taken:
            fresh = f"{name} ({number})"
            number += 1
        names[at] = fresh
        taken.add(fresh)
    return names


def natural_key(name: str) -> tuple[list[tuple[int, str]], str]:
    """Return a key for natural sorting: a.jpg, a2.jpg, a10.jpg, ignoring case.

    Of two numbers the longer one is larger: Python reads none of thousands of digits. Those of
    every script count.
    """
    stem = re.sub(r"\.[^./]*$", "", name).casefold()
    parts = re.split(r"(\d+)", re.sub(r"\d", lambda digit: str(int(digit[0])), stem))
    return [
        (len(number := part.lstrip("0")), number) if part.isdecimal() else (-1, part)
        for part in parts
    ], name


def find_sources(folder: Path) -> Iterator[Source]:
    """Yield the archives and photographs in a folder and below, by name.

    Links to folders are followed. Not hidden files, nor the working copies of reconstructions: an
    output may lie among its photographs.
    """
    found = _walk(folder, set())
    for path in sorted(found, key=lambda path: natural_key(str(path.relative_to(folder)))):
        name = path.relative_to(folder).as_posix()
        if archive.is_picture(name):
            yield Source(path, name, is_archive=False)
        elif _is_archive(path):
            yield Source(path, name, is_archive=True)


def _walk(folder: Path, seen: set[Path]) -> Iterator[Path]:
    """Yield the files in a folder and below; ``seen`` are folders that are not entered again.

    Sorted, so that of two ways to a folder the same one is taken each time.
    """
    real = folder.resolve()
    if real in seen or (folder / MARK).exists():
        return
    seen.add(real)
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        if path.is_dir():
            yield from _walk(path, seen)
        elif path.is_file():
            yield path


def _is_archive(path: Path) -> bool:
    """Whether a file is an archive, also one without an ending, as uploads are stored."""
    return path.suffix.lower() == ".zip" or (not path.suffix and zipfile.is_zipfile(path))
