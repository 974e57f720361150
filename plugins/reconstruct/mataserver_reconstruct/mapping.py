"""From verified pairs to models: COLMAP's mappings, one scene at a time."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

from mataserver_reconstruct import averaging, database
from mataserver_reconstruct.graph import MIN_INLIERS, bringing
from mataserver_reconstruct.native import pycolmap

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from mataserver_reconstruct.study import Study

SMALLEST = 3
"""Photographs of the smallest model: two have a depth, and nothing that confirms it."""

_SNAPSHOTS, _ATTEMPTS = 8, 4
_ENOUGH = 0.95
"""Part of a scene from which on nobody looks for more of it."""
_AT_ONCE, _MATCHES = 300, 5_000_000
"""Photographs of the largest scene that is mapped at once, and verified matches in all.

Beyond, it takes too long: with 400,000 it took 1.6 s, with 4.7 million 43.
"""
_NEAR = 4.0
"""Degrees between the rays of the first pair, in the median: COLMAP's own is 16."""


def build(study: Study, files: list[str], registered: Callable[[int], None]) -> list[Any]:
    """Return the models of one scene, pycolmap's reconstructions, the largest first.

    Which pair a mapping begins with decides how far it gets, and is drawn. One that placed less
    than half is tried again with other draws, from pairs that COLMAP would not begin with, and the
    best one counts: who walks straight on has no pair that stands far apart. Before that, a scene
    of which the first attempt left some out, and not all, is mapped at once. ``registered`` is told
    how many photographs have a place by now, at most. Raises what the job raises when it is to
    stop; ``unfinished`` then has what was reached.
    """
    best: list[Any] = []
    most = 0

    def told(placed: int) -> None:
        nonlocal most
        if placed > most:
            most = placed
            registered(placed)

    for attempt in range(_ATTEMPTS):
        found = _once(study, files, attempt, told)
        best = max(best, found, key=_placed)
        if attempt == 0 and _may_gain(study, files, _placed(best)):
            best = _better(best, _at_once(study, files))
            told(_placed(best))
        if _placed(best) >= len(files) / 2:
            break
    return best


def _may_gain(study: Study, files: list[str], placed: int) -> bool:
    """Whether a scene is mapped at once, which is not for what has no model.

    Global mapping gives whoever only turned a place as well, anywhere.
    """
    if not 0 < placed < _ENOUGH * len(files) or len(files) > _AT_ONCE:
        return False
    return database.verified(study) <= _MATCHES


def _placed(models: list[Any]) -> int:
    """Return the photographs of the largest model."""
    return max((model.num_reg_images() for model in models), default=0)


def _better(found: list[Any], other: list[Any]) -> list[Any]:
    """Return the models whose largest has more photographs, unless it leaves out more of them."""
    more = _placed(other) > _placed(found) and len(_files(other)) >= len(_files(found))
    return other if more else found


def _files(models: list[Any]) -> set[str]:
    return {model.image(at).name for model in models for at in model.reg_image_ids()}


def _at_once(study: Study, files: list[str]) -> list[Any]:
    """Return the models of a global mapping, without what nothing holds."""
    folder = _folder(study) / "at_once"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    found = [pycolmap.Reconstruction(path) for path in averaging.build(study, files, folder)]
    return _sorted(averaging.held(model) for model in found)


def _once(
    study: Study, files: list[str], attempt: int, registered: Callable[[int], None]
) -> list[Any]:
    folder = _folder(study)
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "snapshots").mkdir(parents=True)
    (folder / "models").mkdir()
    placed = 0

    def count(number: int) -> None:
        nonlocal placed
        placed += number

    found = study.native.call(
        pycolmap.incremental_mapping,
        study.database,
        study.folder,
        folder / "models",
        options=_options(study, files, folder / "snapshots", attempt),
        initial_image_pair_callback=lambda: count(2),
        next_image_callback=lambda: count(1),
        beside=lambda: registered(min(placed, len(files))),  # in the main thread: it may stop
    )
    return _sorted(found.values())


def unfinished(study: Study) -> list[Any]:
    """Return what a mapping that was stopped had reached, the largest model first."""
    folder = _folder(study)
    found = [pycolmap.Reconstruction(path) for path in _written(folder / "models")]
    snapshots = _written(folder / "snapshots")
    if snapshots:
        found.append(pycolmap.Reconstruction(snapshots[-1]))
    return _sorted(found)


def _folder(study: Study) -> Path:
    return study.work / "mapping"


def _written(folder: Path) -> list[Path]:
    """Return the folders that hold a whole model, the newest last."""
    if not folder.is_dir():
        return []
    whole = [path.parent for path in folder.glob("*/points3D.bin")]
    return sorted(whole, key=lambda path: path.stat().st_mtime_ns)


def _sorted(models: Iterable[Any]) -> list[Any]:
    """Return the models that are large enough, the largest first.

    COLMAP gives a smaller one, too, where it found no other, and of a camera that was only turned
    one that hardly a point holds together.
    """
    found = [
        model
        for model in models
        if model.num_reg_images() >= SMALLEST
        and model.compute_mean_observations_per_reg_image() >= MIN_INLIERS
    ]
    found.sort(key=lambda model: (-model.num_reg_images(), -model.num_points3D()))
    placed = [{model.image(at).name for at in model.reg_image_ids()} for model in found]
    return [model for model, own in zip(found, bringing(placed), strict=True) if own]


def _options(study: Study, files: list[str], snapshots: Path, attempt: int) -> Any:
    """Return options that give the same model from the same database: one thread, seeds."""
    seed = study.spec.seed + attempt
    pycolmap.set_random_seed(seed)
    options = pycolmap.IncrementalPipelineOptions()
    options.image_names = files
    options.min_model_size = SMALLEST
    options.num_threads = 1
    options.random_seed = seed
    options.mapper.random_seed = seed
    options.triangulation.random_seed = seed
    if attempt:
        options.mapper.init_min_tri_angle = _NEAR
        options.mapper.init_max_forward_motion = 1.0
    options.snapshot_path = snapshots
    options.snapshot_frames_freq = max(4, len(files) // _SNAPSHOTS)
    return options
