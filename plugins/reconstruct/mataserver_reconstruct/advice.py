"""Advice for the photographer: sentences about the photographs, not about the method."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import numpy as np

from mataserver_reconstruct.exif import FULL_FRAME

if TYPE_CHECKING:
    from mataserver_reconstruct.graph import Graph
    from mataserver_reconstruct.model import Model, View
    from mataserver_reconstruct.photos import Photo
    from mataserver_reconstruct.verdicts import Verdict

_FEW, _BLURRED = 8, 4.0
_MANY_CAMERAS = 3
_NO_LENS = 0.5  # radial distortion, k1; wide lenses of action cameras have up to 0.3
_LONG = 2.0
"""A focal length, as a multiple of the picture's longer side, from which on k1 is larger for the
same distortion of the picture. It is also less sure."""
_OTHER_LENS = 1.5
"""How many times as long a lens may be as EXIF tells, or the reverse: 1.0 to 1.3 was seen of right
models, and a square that the camera cut out of its picture has 1.4. Of long lenses 2.0 was seen."""


def before(photos: list[Photo], camera: str) -> list[str]:
    """Return the advice after the photographs were read; ``camera`` is the option."""
    good = [photo for photo in photos if photo.file]
    told = []
    if not good:
        return ["None of the photographs could be read; the report says why."]
    if unreadable := len(photos) - len(good):
        told.append(f"{_count(unreadable, 'photograph')} could not be read; the report says why.")
    number = len({photo.digest for photo in good})
    what = "photograph" if number == len(good) else "different photograph"
    if number < 3:
        told.append(
            f"{_count(number, what)} cannot give a model: take at least three, better twelve or "
            "more, walking around the subject."
        )
    elif number < _FEW:
        told.append(
            f"{_count(number, what)} are few: a model needs each place in three of them. Twelve "
            "or more around the subject, a step apart, work better."
        )
    return [*told, *_repeated(good), *_blurred(good), *_cameras(good, camera)]


def left_out(names: list[str]) -> list[str]:
    """Return the advice about photographs in a format that is not read."""
    if not names:
        return []
    which = f"{_count(len(names), 'photograph')} {'is' if len(names) == 1 else 'are'}"
    return [f"{which} in a format that is not read: {_some(names)}. Convert them to JPEG or PNG."]


def after(graph: Graph, scenes: list[list[str]], verdicts: list[Verdict]) -> list[str]:
    """Return the advice after the models were built."""
    read = [verdict for verdict in verdicts if verdict.status != "unreadable"]
    placed = sum(verdict.pose is not None for verdict in read)
    enough = len({verdict.photo.file for verdict in read}) >= 3
    told = []
    detailed = sum(verdict.status != "no_features" for verdict in read)
    if enough and not graph.pairs and detailed < 3:
        told.append(
            f"{detailed} of {len(read)} photographs have enough details to be matched; the report "
            "says what the others lack."
        )
    elif enough and not graph.pairs:
        told.append(
            "No two photographs overlap enough to be matched. Each should show two thirds of what "
            "the one before shows, from a step aside."
        )
    elif enough and not placed:
        told.append(_unplaced(graph))
    elif enough and placed < len(read) / 2:
        told.append(
            f"Only {placed} of {len(read)} photographs found their place. The others overlap too "
            "little with these, or show them from too different a side: take some in between."
        )
    elif enough and placed < len(read):
        lost = [verdict.photo.name for verdict in read if verdict.pose is None]
        told.append(f"{_count(len(lost), 'photograph')} found no place: {_some(lost)}.")
    return told + _scenes(graph, scenes, {verdict.model for verdict in read if verdict.model})


def _scenes(graph: Graph, scenes: list[list[str]], models: set[str]) -> list[str]:
    """Return the advice about several scenes, and about several models of one."""
    told = []
    parts = len({name.partition("_")[0] for name in models})
    if parts > 1:
        of_scene = {file: at for at, files in enumerate(scenes) for file in files}
        pairs = ((of_scene.get(pair.first), of_scene.get(pair.second)) for pair in graph.pairs)
        apart = all(None in pair or pair[0] == pair[1] for pair in pairs)
        how = "show {} scenes that share nothing" if apart else "were separated into {} scenes"
        told.append(f"The photographs {how.format(parts)}; each has its own model.")
        if apart:
            told.append(
                "If that is one place, views in between are missing, or some photographs are "
                "mirrored, as front cameras of phones do: mirror these once more."
            )
    if len(models) > parts:
        told.append(
            f"The {len(models)} models are of {_count(parts, 'scene')}: too little connects the "
            "parts of a scene to be one model. Take photographs in between."
        )
    return told


def overlaid(model: str, names: tuple[str, str], *, separable: bool) -> str:
    """Return the advice about a model that lies on top of itself.

    ``names`` are two photographs that contradict each other. ``separable``: ``louvain`` would put
    them into two scenes.
    """
    remedy = "ask for cluster: louvain" if separable else "reconstruct the two places one by one"
    return (
        f"{model} lies on top of itself: {names[0]} and {names[1]} should show the same place and "
        f"show two, which look alike in part. To separate them, {remedy}."
    )


def bent(models: list[Model]) -> list[str]:
    """Return the advice about models with a shared camera that no lens can be.

    So photographs are bent that were cropped or enlarged: their EXIF is that of the others.
    """
    told = []
    for model in models:
        lenses = Counter((view.distortion, _relative_focal(view)) for view in model.views)
        if any(
            number > 1 and abs(lens) > _NO_LENS * max(1.0, (focal / _LONG) ** 2)
            for (lens, focal), number in lenses.items()
        ):
            told.append(
                f"{model.name} is bent: its photographs fit no common camera. If some were cropped "
                "or enlarged, ask for camera: per_image."
            )
    return told


def other_lenses(models: list[Model], photos: list[Photo]) -> list[str]:
    """Return the advice about models whose lenses contradict the EXIF of their photographs."""
    by_file = {photo.file: photo.exif.focal_35 / FULL_FRAME for photo in photos if photo.file}
    told = []
    for model in models:
        both = [(_relative_focal(view), by_file[view.file]) for view in model.views]
        other = [pair for pair in both if min(pair) and _contradict(*pair)]
        if len(other) < max(2, len(both) / 4):
            continue
        found, exif = np.median(other, axis=0) * FULL_FRAME
        told.append(
            f"{model.name}: {len(other)} of its {len(both)} photographs fit a lens of about "
            f"{found:.0f} mm, and their EXIF tells {exif:.0f} mm. If that is right and they were "
            "not cropped or enlarged, the model is wrong, as where things moved in between."
        )
    return told


def _contradict(found: float, exif: float) -> bool:
    short, long = sorted((found, exif))
    return long > _OTHER_LENS ** (1 if short < _LONG else 2) * short


def _relative_focal(view: View) -> float:
    return float(view.matrix[0, 0]) / max(view.size)


def _unplaced(graph: Graph) -> str:
    if sum(pair.still for pair in graph.pairs) > len(graph.pairs) / 2:
        return (
            "The camera stood still: most of what the photographs share is in the same place in "
            "each. Walk around the subject, or turn it before a background without details."
        )
    if sum(pair.flat for pair in graph.pairs) > len(graph.pairs) / 2:
        return (
            "The camera was turned on the spot, or what the photographs share is flat, so nothing "
            "tells how far things are. Walk: take each photograph from another place."
        )
    return (
        "The photographs overlap, but too little for a model. Take more of them, a step apart, so "
        "that each detail is in three or more."
    )


def _repeated(good: list[Photo]) -> list[str]:
    again = sum(number - 1 for number in Counter(photo.digest for photo in good).values())
    if not again:
        return []
    if again == 1:
        return ["1 photograph stands in it more than once, and adds nothing."]
    return [f"{again} photographs stand in it more than once, and add nothing."]


def _blurred(good: list[Photo]) -> list[str]:
    """Return the advice about photographs with few details, by what they lack."""
    soft = [photo for photo in good if photo.measured["sharpness"] < _BLURRED]
    told = []
    for dark, what in ((False, "blurred or bare"), (True, "too dark")):
        names = [photo.name for photo in soft if photo.is_dark == dark]
        if names and len(names) >= len(good) / 10:
            which = f"{_count(len(names), 'photograph')} {'is' if len(names) == 1 else 'are'}"
            told.append(f"{which} {what}, which gives few details: {_some(names)}.")
    if any(photo.may_lack_bits for photo in soft):
        told.append(
            "Files of 16 bits that hold 10 or 12 bits are read as nearly black, too: if that is "
            "what the dark ones are, scale them to 8 or 16 bits."
        )
    return told


def _cameras(good: list[Photo], camera: str) -> list[str]:
    # Not by their size: a camera that was held upright, or set to another size, is no other one.
    kinds = {(photo.exif.camera, photo.exif.focal_35) for photo in good} - {("", 0.0)}
    unknown = [photo for photo in good if not (photo.exif.camera or photo.exif.focal_35)]
    told = []
    if len(kinds) >= _MANY_CAMERAS:
        told.append(
            f"They come from {len(kinds)} cameras, lenses or zoom settings. One camera at one zoom "
            "setting gives a truer model."
        )
    if len(unknown) > len(good) / 2:
        single = "" if camera == "single" else "; if one camera took all, ask for camera: single"
        told.append(
            "Most of them do not tell their camera and focal length (EXIF is missing). Originals "
            f"from the camera give a truer model{single}."
        )
    return told


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "")


def _count(number: int, what: str) -> str:
    return f"{number} {what}" + ("" if number == 1 else "s")
