"""The CSV of poses in the format of the Image Matching Challenge 2025."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from mataserver_reconstruct.verdicts import Verdict

COLUMNS = ("dataset", "scene", "image", "rotation_matrix", "translation_vector")


def write(verdicts: Sequence[Verdict], dataset: str, *, image_id: bool = False) -> str:
    """Return the CSV: each photograph once, in the given order.

    Rotations are nine numbers by rows and translations three, from the world to the camera, joined
    by semicolons; without a pose they are ``nan``. ``image_id`` adds that column in front.
    """
    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*(["image_id"] if image_id else []), *COLUMNS])
    for verdict in verdicts:
        pose = verdict.pose
        rotation = [float("nan")] * 9 if pose is None else pose.rotation.ravel().tolist()
        translation = [float("nan")] * 3 if pose is None else pose.translation.tolist()
        row = [dataset, verdict.scene, verdict.photo.name, _joined(rotation), _joined(translation)]
        writer.writerow([*([f"{dataset}_{verdict.photo.name}"] if image_id else []), *row])
    return out.getvalue()


def _joined(numbers: Iterable[float]) -> str:
    return ";".join(f"{number:.9f}" for number in numbers)
