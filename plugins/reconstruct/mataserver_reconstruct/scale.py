"""Scales a model to metres: by a known length, or by the photographs' GPS positions.

Structure from motion only sees directions: its unit is arbitrary. GPS is metres off, so it gives a
scale only where the cameras were far apart; altitudes are worse than positions and not used.
"""

from __future__ import annotations

import itertools
import unicodedata
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from mataserver import BadRequest
from mataserver_reconstruct import level
from mataserver_reconstruct.model import Scale
from mataserver_reconstruct.native import pycolmap
from mataserver_reconstruct.spec import NONE, parse_length

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from mataserver_reconstruct.model import Model, View
    from mataserver_reconstruct.photos import Photo
    from mataserver_reconstruct.spec import Length, Mark, Spec

    Plan = NDArray[np.complex128]

MIN_POSITIONS = 4
"""The least number of photographs with a position: fewer confirm nothing."""
MAX_ERROR = 0.10
"""The largest relative error of the scale (see ``Fit``); above it is refused."""
_SURE = 0.975
"""The quantile of Student's t that 95 % lie within, to both sides."""

_GPS_ERROR = 0.5  # metres: the least assumed error of positions, however well they agree
_WRONG = 20.0  # metres, east or north: the standard error of positions that are not just coarse
_PAIRS = 2_000  # of cameras for the first estimate
_OUTLYING = 2.5 * 1.4826  # times the median error, above which a position is an outlier
_NEAR = 0.05  # of the picture's longer side: the largest distance of the nearest point
_PITCHES = np.radians(np.arange(0, 91, 5))  # of cameras that look down
_NEXT = 3  # nearest points whose median depth a mark gets


class UnknownScaleError(Exception):
    """Raised where a model's scale is unknown; its text is a clause with the reason."""


class Fit(NamedTuple):
    """How GPS positions fit the cameras seen from above; in metres but for ``factor``.

    factor: rotation and scale from cameras to positions, 0 where nothing fits.
    error:  relative to the scale, which is within it in 95 % of sets; infinite where nothing fits.
    off:    the standard error of a position, east or north.
    extent: twice the largest distance of a position from their middle. Without outliers.
    """

    factor: complex
    error: float
    off: float
    extent: float


def check(spec: Spec, photos: Sequence[Photo]) -> None:
    """Raise ``BadRequest`` for a known length in a photograph that does not exist."""
    known = parse_length(spec.scale)
    for mark in (known.first, known.second) if known else ():
        _photo(mark, photos)


def apply_scale(model: Model, photos: Sequence[Photo], how: str) -> tuple[Model, str]:
    """Return a levelled model in metres, and a sentence about it, as ``Spec.scale`` requests.

    With GPS also x is east and y north. A model whose scale is unknown is returned unchanged, and
    the sentence gives the reason.
    """
    if how == NONE:
        return model, ""
    known = parse_length(how)
    try:
        done = _by_length(model, photos, known) if known else _by_gps(model, photos)
    except UnknownScaleError as why:
        return model, f"{model.name} has no scale: {why}."
    return done, f"{model.name} is in metres, {done.scale}."


def _by_length(model: Model, photos: Sequence[Photo], known: Length) -> Model:
    ends = [_point_at(model, photos, mark) for mark in (known.first, known.second)]
    distance = float(np.linalg.norm(ends[1] - ends[0]))
    if distance <= 0:
        raise UnknownScaleError("both ends of the length are one place of it")
    factor = known.metres / distance
    return replace(model.transformed(np.eye(3), np.zeros(3), factor), scale=Scale("length"))


def _point_at(model: Model, photos: Sequence[Photo], mark: Mark) -> NDArray[np.float64]:
    """Return the model's position of a mark in a photograph, at the depth of the nearest points.

    Raises ``UnknownScaleError`` where the photograph has no place, or no point of the model is
    near.
    """
    photo = _photo(mark, photos)
    view = next((each for each in model.views if each.file == photo.file), None)
    if view is None:
        raise UnknownScaleError(f"{mark.image} has no place in it")
    # COLMAP counts from a picture's corner: the centre of the pixel 0,0 is at 0.5,0.5.
    scale = np.divide((photo.width, photo.height), photo.original)
    pixel = (np.array([mark.x, mark.y]) + 0.5) * scale
    seen = np.flatnonzero(view.points >= 0)
    away = np.linalg.norm(view.keypoints[seen] - pixel, axis=1)
    order = np.argsort(away, kind="stable")[:_NEXT]
    order = order[away[order] <= _NEAR * max(view.size)]
    if not len(order):
        raise UnknownScaleError(f"no point of it is near {mark.x:g},{mark.y:g} of {mark.image}")
    local = model.xyz[view.points[seen[order]]] @ view.rotation.T + view.translation
    ray = np.array([*_undistorted(view, pixel), 1.0])
    place: NDArray[np.float64] = view.rotation.T @ (
        ray * float(np.median(local[:, 2])) - view.translation
    )
    return place


def _undistorted(view: View, pixel: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return a pixel in units of the focal length, without the lens's distortion."""
    bent = (pixel - view.matrix[:2, 2]) / np.diag(view.matrix)[:2]
    straight = bent
    for _ in range(20):  # bent = straight (1 + k1 |straight|^2), solved by fixed-point iteration
        straight = bent / (1 + view.distortion * float(straight @ straight))
    return np.asarray(straight, np.float64)


def _photo(mark: Mark, photos: Sequence[Photo]) -> Photo:
    for form in (str, _composed):
        for photo in photos:
            if photo.file and form(mark.image) in {form(photo.name), form(photo.path)}:
                return photo
    raise BadRequest(f"scale: there is no photograph {mark.image!r} that can be read")


def _composed(name: str) -> str:
    """Return a name with composed letters: macOS stores ü as u and two dots, nobody types that."""
    return unicodedata.normalize("NFC", name)


def _by_gps(model: Model, photos: Sequence[Photo]) -> Model:
    known, ground = _positions(model, photos)
    if len(known) < MIN_POSITIONS:
        raise UnknownScaleError(
            f"{len(known)} of its photographs tell by GPS where they were taken, "
            f"and {MIN_POSITIONS} at least must"
        )
    centres = model.centres[known]
    factor, error, off, extent = fit_similarity(centres[:, 0] + 1j * centres[:, 1], ground)
    if error > MAX_ERROR:
        if off > _WRONG:
            raise UnknownScaleError(
                "the positions that GPS tells do not fit how its cameras stand to each other: they "
                f"are {off:.0f} m off"
            )
        tells = f"a scale to {error:.0%} alone" if error < 1 else "no scale"
        raise UnknownScaleError(
            f"GPS is too coarse for it: the cameras stood within {extent:.1f} m, which tells "
            f"{tells}"
        )
    unit = factor / abs(factor)
    turn = np.array([[unit.real, -unit.imag, 0], [unit.imag, unit.real, 0], [0, 0, 1.0]])
    return replace(model.transformed(turn, np.zeros(3), abs(factor)), scale=Scale("GPS", error))


def up(model: Model, photos: Sequence[Photo]) -> NDArray[np.float64]:
    """Return the unit vector that is up in a model, nearly.

    Cameras that all look one way may stand level before a wall, or look down from a drone that
    never turned. Where GPS knows their positions, these fit the plan for some pitches only.
    """
    usual, down = level.up(model.rotations), level.opposite(model.rotations)
    known, ground = _positions(model, photos)
    if len(known) < MIN_POSITIONS + 2 or level.look_around(model.rotations):
        return usual
    tried = np.cos(_PITCHES)[:, None] * usual + np.sin(_PITCHES)[:, None] * down
    tried /= np.linalg.norm(tried, axis=1, keepdims=True)
    errors = np.array([_plan_error(model.centres[known], each, ground) for each in tried])
    least = float(errors.min())
    if least > MAX_ERROR or errors[0] < 2 * least:
        return usual
    return np.asarray(tried[int(np.median(np.flatnonzero(errors < 1.1 * least)))], np.float64)


def _plan_error(centres: NDArray[np.float64], normal: NDArray[np.float64], ground: Plan) -> float:
    """Return the error of the scale by GPS if ``normal`` is up."""
    flat = centres @ level.to_z(normal).T
    return fit_similarity(flat[:, 0] + 1j * flat[:, 1], ground).error


def _positions(model: Model, photos: Sequence[Photo]) -> tuple[list[int], Plan]:
    """Return the views of a model with a GPS position, and these: metres east and north."""
    positions = {photo.file: photo.exif.gps for photo in photos if photo.exif.gps}
    known = [at for at, view in enumerate(model.views) if view.file in positions]
    return known, _local_metres([positions[model.views[at].file] for at in known])


def _local_metres(places: Sequence[tuple[float, float, float] | None]) -> Plan:
    """Return metres east and, as the imaginary part, north of the first position.

    On the ellipsoid (WGS 84): on a sphere a walk to the north would be up to 0.6 % too long.
    """
    ground = np.array([(*place[:2], 0.0) for place in places if place is not None])
    if not len(ground):
        return np.empty(0, np.complex128)
    metres = pycolmap.GPSTransform().ellipsoid_to_enu(ground, *ground[0])
    return np.asarray(metres[:, 0] + 1j * metres[:, 1], np.complex128)


def fit_similarity(plan: Plan, ground: Plan) -> Fit:
    """Return how GPS positions, ``MIN_POSITIONS`` at least, fit cameras seen from above.

    Up to half of the positions may be outliers, where enough are left to confirm each other.
    """
    from scipy.special import stdtrit

    kept = _inliers(plan, ground)
    if kept.sum() < MIN_POSITIONS:
        kept[:] = True  # two of few fit exactly: beside them noise alone makes outliers
    here, there = plan[kept] - plan[kept].mean(), ground[kept] - ground[kept].mean()
    size = float((np.abs(here) ** 2).sum())
    # Without a size the cameras are at one place, or above each other.
    factor = complex((here.conj() * there).sum() / size) if size > 0 else 0j
    if not 0 < abs(factor) < float("inf"):  # nor is it NaN
        factor = 0j
    freedom = 2 * len(here) - 4  # few positions tell little of how far they are off themselves
    spread = (np.abs(there - factor * here) ** 2).sum() / freedom
    off = max(float(spread) ** 0.5, _GPS_ERROR)
    standard = off / (abs(factor) * size**0.5) if factor else float("inf")
    error = float(stdtrit(freedom, _SURE)) * standard
    return Fit(factor, error, off, float(np.abs(there).max()) * 2)


def _inliers(plan: Plan, ground: Plan) -> NDArray[np.bool_]:
    """Return the positions that the best pair of cameras explains, ``[n]``.

    The pair that fits best of few fits by chance: their median error is too small by 1 + 5/(n - 2)
    (Rousseeuw and Leroy 1987), and good positions would be outliers.
    """
    pairs = list(itertools.combinations(range(len(plan)), 2))
    best, off = float("inf"), np.full(len(plan), np.inf)
    for one, two in pairs[:: len(pairs) // _PAIRS + 1]:
        step, way = plan[two] - plan[one], ground[two] - ground[one]
        if not abs(step) or not abs(way):
            continue
        tried = np.abs(ground - ground[one] - way / step * (plan - plan[one]))
        middle = float(np.median(tried))
        if middle < best:
            best, off = middle, tried
    usual = best * (1 + 5 / (len(plan) - 2))
    return np.asarray(off <= max(_OUTLYING * usual, _GPS_ERROR), np.bool_)
