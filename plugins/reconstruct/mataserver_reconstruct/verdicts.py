"""The outcome of each photograph, with the reason if it has no place in a model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mataserver_reconstruct.graph import Graph
    from mataserver_reconstruct.model import Model, View
    from mataserver_reconstruct.photos import Photo

OUTLIERS = "outliers"
"""The scene of photographs without a scene."""
FEW = 50
"""The number of features below which a photograph cannot be matched."""

_BLURRED = 3.0
_ALONE = (
    "No other photograph shows enough of the same from a view that is near enough; take some "
    "between it and its neighbours, each with two thirds of the last one in it."
)


@dataclass(frozen=True)
class Verdict:
    """The outcome of one photograph.

    scene:  its name in the CSV: one per model, since each has its own coordinates.
    pose:   its view in that model, None without one.
    model:  the name of that model, or "".
    status: ``registered``, ``unreadable``, ``no_features``, ``no_verified_pair``, ``not_in_model``.
    reason: a sentence for the photographer; "" when it is registered and no copy of another one.
    """

    photo: Photo
    scene: str
    pose: View | None
    model: str
    status: str
    reason: str
    keypoints: int = 0


def judge(
    photos: list[Photo], graph: Graph, scenes: list[list[str]], models: list[Model]
) -> list[Verdict]:
    """Return the verdict of every photograph, in order."""
    placed: dict[str, tuple[Model, View]] = {}
    for model in models:  # the largest first: a photograph in two belongs to the larger
        for view in model.views:
            placed.setdefault(view.file, (model, view))
    mapped = {model.cluster for model in models}
    of_scene = {file: at for at, files in enumerate(scenes) for file in files if at in mapped}
    return [_verdict(photo, graph, of_scene, placed, photos) for photo in photos]


def _verdict(
    photo: Photo,
    graph: Graph,
    of_scene: dict[str, int],
    placed: dict[str, tuple[Model, View]],
    photos: list[Photo],
) -> Verdict:
    count = graph.keypoints.get(photo.file, 0)
    names = {each.file: each.name for each in reversed(photos)}  # of copies the first one's
    if photo.file in placed:
        model, view = placed[photo.file]
        first = names[photo.file]
        why = "" if first == photo.name else f"It is the same file as {first}, and counts once."
        return Verdict(photo, scene_of(model), view, model.name, "registered", why, count)
    scene = f"cluster{of_scene[photo.file]}" if photo.file in of_scene else OUTLIERS
    status, reason = _status_and_reason(photo, graph, names, set(placed))
    return Verdict(photo, scene, None, "", status, reason, count)


def scene_of(model: Model) -> str:
    """Return a model's name in the CSV: a scene's second model has its own coordinates."""
    return model.name if model.index else f"cluster{model.cluster}"


def _status_and_reason(
    photo: Photo, graph: Graph, names: dict[str, str], placed: set[str]
) -> tuple[str, str]:
    """Return the status of a photograph without a place, and the sentence."""
    count = graph.keypoints.get(photo.file, 0)
    if not photo.file:
        return "unreadable", f"It could not be read: {photo.problem}."
    if count < FEW and graph.detected:
        return "no_features", _empty(photo, count)
    best = graph.best(photo.file)
    if best is None:
        return "no_verified_pair", _ALONE
    other = best.second if best.first == photo.file else best.first
    if best.flat:
        why = (
            "what they share is flat, or the camera was turned and not moved, so nothing tells how "
            "far things are"
        )
    elif best.still:
        why = "these are in the same place in both, as if the camera stood still"
    elif not placed:
        why = "that is too little for a model"
    elif other not in placed:
        why = "neither of them has enough in common with those that have a place"
    else:
        why = "that is too little to place it with certainty"
    return "not_in_model", f"It matches {names[other]} best, in {best.inliers} places, but {why}."


def _empty(photo: Photo, count: int) -> str:
    if photo.is_dark:  # before: what is black is bare, too
        return f"It is too dark: only {count} details were found."
    if photo.measured.get("sharpness", _BLURRED) < _BLURRED:
        return f"It is blurred, or shows bare surfaces: only {count} details were found."
    return f"It shows too few details to recognise: {count} were found."
