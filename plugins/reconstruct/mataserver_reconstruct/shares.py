"""The boolean properties of each photograph of an upload, for drift: see ``features.SHARES``."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

from mataserver_reconstruct.features import SHARES

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mataserver_reconstruct.exif import Exif


class PhotoFacts(NamedTuple):
    """A photograph's digest, and its EXIF, None when it cannot be read."""

    digest: str
    exif: Exif | None


def photo_flags(photographs: Sequence[PhotoFacts]) -> Iterator[dict[str, float]]:
    """Yield the properties of each photograph; an unreadable one has that property only."""
    cameras = Counter(each.exif.camera for each in photographs if each.exif is not None)
    ((main, _),) = cameras.most_common(1) or [("", 0)]
    seen: set[str] = set()
    for digest, exif in photographs:
        if exif is None:
            yield {SHARES[0]: 1.0}
            continue
        values = (False, digest in seen, exif.focal_35 > 0, exif.camera == main)
        seen.add(digest)
        yield dict(zip(SHARES, map(float, values), strict=True))
