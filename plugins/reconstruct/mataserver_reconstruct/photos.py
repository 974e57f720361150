"""Working copies of photographs: upright, bounded, JPEG, under plain names.

COLMAP's reader silently skips WebP and AVIF and does not support HEIC, so every photograph is
written anew; its own name is stored separately.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
import os
import warnings
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Struct
from PIL import Image

from mataserver import BadRequest, decode_image, sync
from mataserver_reconstruct import exif, intake, measures, stages
from mataserver_reconstruct.files import MANIFEST, PHOTOS, PREPARED

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from concurrent.futures import Future
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from mataserver_reconstruct.job import Job
    from mataserver_reconstruct.spec import Spec

_QUALITY = 95
_DARK = 0.8  # share of dark pixels
_MAX_DECODING = 4
"""Photographs that are decoded concurrently, at most: one of 100 megapixels takes 300 MB."""


class Photo(Struct, frozen=True, kw_only=True):
    """One photograph of an input.

    name:     its unique name.
    path:     in the input.
    file:     in ``work/photos``; "" when it cannot be read, with the reason in ``problem``. See
              ``share_copies``.
    width, height: in pixels, of the working copy.
    stored:   bytes of the working copy.
    original: width and height of the photograph, upright.
    digest:   of its bytes.
    measured: see ``measures``; of the whole photograph.
    """

    name: str
    path: str
    file: str = ""
    width: int = 0
    height: int = 0
    stored: int = 0
    original: tuple[int, int] = (0, 0)
    digest: str = ""
    exif: exif.Exif = exif.Exif()
    measured: dict[str, float] = msgspec.field(default_factory=dict)
    problem: str = ""

    @property
    def camera(self) -> tuple[Any, ...]:
        """A key that photographs of one camera share; the own name without EXIF."""
        known = self.exif.camera or self.exif.focal_35
        own = (self.exif.camera, self.exif.focal_35) if known else self.name
        return own, self.width, self.height

    @property
    def is_dark(self) -> bool:
        """Whether nearly all of it is black."""
        return self.measured.get("dark_frac", 0.0) > _DARK

    @property
    def may_lack_bits(self) -> bool:
        """Whether nothing in it is lighter than 12 bits are that were stored as the lower of 16.

        No tag tells it, so that the picture cannot be scaled: it may be one of a dark place.
        """
        deep = self.path.lower().endswith((".tif", ".tiff", ".png"))
        black = self.measured.get("brightness", 0.0) == 0
        return deep and not black and self.measured.get("dark_frac", 0.0) == 1


def prepare(job: Job, spec: Spec) -> list[Photo]:
    """Write the working copies of a job's photographs; return them in natural order.

    Copies of an earlier attempt are reused. Raises ``BadRequest`` for an input that is refused.
    """
    manifest, folder = job.work / MANIFEST, job.work / PHOTOS
    with contextlib.suppress(FileNotFoundError, msgspec.DecodeError):  # or the disk has damaged it
        found = msgspec.json.decode(manifest.read_bytes(), type=list[Photo])
        if all(_is_whole(photo, folder) for photo in found):
            return found
    sources, paths = intake.list_photos(job.input, spec.limits)
    folder.mkdir(parents=True, exist_ok=True)
    names = intake.unique_names(paths)
    # COLMAP's results depend on the order of its files: that of an archive must not matter.
    order = sorted(range(len(names)), key=lambda at: intake.natural_key(names[at]))
    number = {at: rank for rank, at in enumerate(order)}

    def read() -> Iterator[tuple[bytes, str, str, Path]]:
        for at, data in enumerate(intake.read(sources, spec.limits)):
            told = f"photograph {at + 1} of {len(paths)}"
            job.report(stages.EXTRACTING, at, len(paths), told)
            yield data, names[at], paths[at], folder / f"{number[at]:05d}.jpg"

    prepared = job.work / PREPARED
    # Pillow's warnings are ignored. Filters apply to the whole process: they are set once, before
    # the threads start, which would otherwise restore each other's.
    with warnings.catch_warnings(action="ignore"), prepared.open("ab", buffering=0) as log:
        work = functools.partial(_prepare_one, spec=spec, known=_already_prepared(prepared))
        found = []
        for photo in _map_in_threads(work, read(), min(_MAX_DECODING, threads(spec))):
            log.write(b"\n" + msgspec.json.encode(photo))  # a new line: the last one may be cut off
            found.append(photo)
    found.sort(key=lambda photo: intake.natural_key(photo.name))
    write_atomically(manifest, msgspec.json.encode(found))
    prepared.unlink()
    return found


def _already_prepared(prepared: Path) -> dict[str, Photo]:
    """Return the photographs by name that an attempt prepared which was killed meanwhile."""
    known = {}
    for line in prepared.read_bytes().splitlines():
        with contextlib.suppress(msgspec.DecodeError):  # it was killed while it wrote that
            photo = msgspec.json.decode(line, type=Photo)
            known[photo.name] = photo
    return known


def _is_whole(photo: Photo, folder: Path) -> bool:
    """Whether a photograph has its working copy: a power cut may leave an empty file."""
    try:
        return not photo.file or (folder / photo.file).stat().st_size == photo.stored
    except FileNotFoundError:
        return False


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file atomically: the process may be killed, and the power fail, at any moment.

    A later attempt goes on with it where it has its name: its content is on the disk by then.
    """
    fresh = path.with_name(path.name + ".new")
    fresh.write_bytes(data)
    sync(fresh)
    fresh.replace(path)


def threads(spec: Spec) -> int:
    """Return how many threads a parallel step may use."""
    return spec.threads or len(os.sched_getaffinity(0))


def _map_in_threads(
    work: Callable[..., Photo], arguments: Iterable[tuple[Any, ...]], workers: int
) -> Iterator[Photo]:
    """Yield the results of ``work`` for each of ``arguments``, in order.

    At most as many arguments as threads are read ahead: each holds a photograph.
    """
    waiting: deque[Future[Photo]] = deque()
    with ThreadPoolExecutor(workers, thread_name_prefix="photographs") as pool:
        for each in arguments:
            waiting.append(pool.submit(work, *each))
            if len(waiting) >= workers:
                yield waiting.popleft().result()
        for future in waiting:
            yield future.result()


def _prepare_one(
    data: bytes, name: str, path: str, file: Path, spec: Spec, known: Mapping[str, Photo]
) -> Photo:
    if not data:
        return Photo(name=name, path=path, problem="it is empty, too large, or its disk fails")
    digest = hashlib.sha256(data).hexdigest()[:16]
    before = known.get(name)
    if before is not None and before.digest == digest and _is_whole(before, file.parent):
        return before
    try:
        pixels = decode_image(data, spec.limits.max_pixels)
    except BadRequest as error:
        return Photo(name=name, path=path, digest=digest, problem=error.detail)
    small = measures.downscaled(pixels, spec.max_size)
    told = exif.read(data)
    height, width = small.shape[:2]
    if told.wrong or not _copy_unchanged(data, small, file):
        out = io.BytesIO()  # to a file Pillow takes a write for whole that a full disk cut off
        Image.fromarray(small).save(out, "JPEG", quality=_QUALITY, exif=exif.write(told))
        file.write_bytes(out.getvalue())
    return Photo(
        name=name,
        path=path,
        file=file.name,
        width=width,
        height=height,
        stored=file.stat().st_size,
        original=(pixels.shape[1], pixels.shape[0]),
        digest=digest,
        exif=told,
        measured=measures.measure(pixels),
    )


def _copy_unchanged(data: bytes, pixels: NDArray[np.uint8], file: Path) -> bool:
    """Write a JPEG's own bytes where nothing changes: encoding it again loses quality."""
    try:
        with Image.open(io.BytesIO(data)) as picture:
            plain = picture.format == "JPEG" and picture.mode == "RGB"
            upright = picture.getexif().get(0x0112, 1) == 1
            same = plain and upright and picture.size == pixels.shape[1::-1]
    except exif.DAMAGED:
        return False
    if same:
        file.write_bytes(data)
    return same


def share_copies(photos: list[Photo]) -> list[Photo]:
    """Return the photographs, those of the same bytes with the working copy of the first one.

    A photograph must not confirm itself: two, one of them several times, would give a model.
    """
    first: dict[str, str] = {}
    return [
        msgspec.structs.replace(photo, file=first.setdefault(photo.digest, photo.file))
        if photo.file
        else photo
        for photo in photos
    ]


def readable(photos: list[Photo]) -> list[Photo]:
    """Return the photographs that can be used, one of each working copy: the first."""
    first: dict[str, Photo] = {}
    for photo in photos:
        first.setdefault(photo.file, photo)
    first.pop("", None)
    return list(first.values())


def chunks(items: list[Any], size: int) -> Iterator[list[Any]]:
    """Yield a list in chunks."""
    for at in range(0, len(items), size):
        yield items[at : at + size]
