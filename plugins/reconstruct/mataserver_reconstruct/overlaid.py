"""Whether a model lies on top of itself: two places that look alike were taken for one.

Matches do not show it: those of a look-alike may be as many, and as spread, as those of two distant
views of one place. The pictures do. What one camera sees must be as bright in the picture of a
camera beside it; where two places lie on top of each other, the surroundings of the look-alike are
not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import cv2
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from mataserver_reconstruct.model import Model, View

_SIDE = 200
"""Longest side of a picture in pixels: small enough to blur what differs between two views."""
_CELLS = 24  # of a picture's longer side; one point of each is compared
_NEIGHBOURS = 24  # the nearest cameras, with which one is compared: bounds the time
_ANGLE = np.cos(np.radians(25))  # between two lines of sight: what one sees the other sees, too
_NEARER = 2.0  # how many times nearer one camera may be
_ERROR = 2.0  # pixels: points with more are not compared
_POINTS = 20  # the least number of points that are compared
_DIFFERENT = 0.2
"""The correlation of brightness below which two pictures show different things.

Of neighbours in real and rendered sets 0 to 7 % were below it, of overlaid scenes 19 to 68 %.
"""
_SHARE, _PAIRS = 0.12, 6
"""The least share, and number, of different pairs in a model that lies on top of itself."""


class _Seen(NamedTuple):
    """One photograph: its view, its small picture, and the points compared, as it shows them."""

    view: View
    picture: NDArray[np.uint8]
    xyz: NDArray[np.float64]
    grey: NDArray[np.uint8]


def contradiction(
    model: Model, folder: Path, stopping: Callable[[], bool] = lambda: False
) -> tuple[str, str] | None:
    """Return two photographs that contradict each other if a model lies on top of itself.

    ``folder`` holds the working copies. None once ``stopping``: 1,000 photographs take seconds, and
    a job that is stopped has to write its result.
    """
    reliable = model.errors < _ERROR
    seen, alike = [], []
    for view in model.views:
        if stopping():
            return None
        seen.append(_seen(model, view, reliable, folder))
    for one, two in _near(model):
        if stopping():
            return None
        # Of a pair that compares in one direction only nothing is concluded: NaN is not the least.
        least = np.minimum(_likeness(seen[one], seen[two]), _likeness(seen[two], seen[one]))
        alike.append((float(least), one, two))
    compared = [each for each in alike if np.isfinite(each[0])]
    different = [each for each in compared if each[0] < _DIFFERENT]
    if len(different) < max(_PAIRS, _SHARE * len(compared)):
        return None
    _, one, two = min(different)
    return model.views[one].file, model.views[two].file


def _near(model: Model) -> Iterator[tuple[int, int]]:
    """Yield the pairs of neighbouring cameras, each once."""
    from scipy.spatial import cKDTree

    count = min(_NEIGHBOURS + 1, len(model.views))
    found = cKDTree(model.centres).query(model.centres, count)[1].reshape(-1, count)
    pairs = {(min(one, two), max(one, two)) for one, row in enumerate(found) for two in row}
    yield from sorted((int(one), int(two)) for one, two in pairs if one != two)


def _seen(model: Model, view: View, reliable: NDArray[np.bool_], folder: Path) -> _Seen:
    """Return a photograph with one reliable point of each cell of it."""
    at = np.flatnonzero(view.points >= 0)
    at = at[reliable[view.points[at]]]
    cells = (view.keypoints[at] / max(view.size) * _CELLS).astype(np.int64)
    at = at[np.unique(cells, axis=0, return_index=True)[1]]
    picture = _picture(folder / view.file)
    return _Seen(
        view, picture, model.xyz[view.points[at]], _brightness(picture, view, view.keypoints[at])
    )


def _picture(file: Path) -> NDArray[np.uint8]:
    """Read a working copy small and grey. Raises ``OSError`` when it does not exist."""
    whole: Any = cv2.imread(str(file), cv2.IMREAD_REDUCED_GRAYSCALE_2)
    if whole is None:
        raise FileNotFoundError(file.name)
    scale = _SIDE / max(whole.shape)
    size = [max(1, round(side * scale)) for side in whole.shape[::-1]]
    return np.asarray(cv2.resize(whole, size, interpolation=cv2.INTER_AREA), np.uint8)


def _brightness(
    picture: NDArray[np.uint8], view: View, pixels: NDArray[np.floating[Any]]
) -> NDArray[np.uint8]:
    """Return the picture's grey levels at pixels of the working copy."""
    limit = np.array(picture.shape[::-1])
    at = np.clip((pixels * (limit / view.size)).astype(np.int64), 0, limit - 1)
    return picture[at[:, 1], at[:, 0]]


def _likeness(one: _Seen, other: _Seen) -> float:
    """Return how well the brightness of one photograph's points fits another; NaN if unknown."""
    here, there = one.xyz - one.view.centre, one.xyz - other.view.centre
    near, far = np.linalg.norm(here, axis=1), np.linalg.norm(there, axis=1)
    local = one.xyz @ other.view.rotation.T + other.view.translation
    visible = (here * there).sum(axis=1) > _ANGLE * near * far
    visible &= (far < _NEARER * near) & (near < _NEARER * far) & (local[:, 2] > 0)
    flat = local[visible, :2] / local[visible, 2:]
    flat *= 1 + other.view.distortion * (flat**2).sum(axis=1, keepdims=True)
    pixels = flat * np.diag(other.view.matrix)[:2] + other.view.matrix[:2, 2]
    inside = ((pixels >= 0) & (pixels < other.view.size)).all(axis=1)
    if inside.sum() < _POINTS:
        return float("nan")
    own = one.grey[visible][inside].astype(np.float64)
    found = _brightness(other.picture, other.view, pixels[inside]).astype(np.float64)
    own, found = own - own.mean(), found - found.mean()
    size = float(np.linalg.norm(own) * np.linalg.norm(found))
    return float(own @ found) / size if size > 0 else float("nan")
