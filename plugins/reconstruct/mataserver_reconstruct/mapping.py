"""Builds models from verified pairs with COLMAP's mappings, one scene at a time."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

from mataserver_reconstruct import database, global_mapping
from mataserver_reconstruct.exif import FULL_FRAME
from mataserver_reconstruct.graph import MIN_INLIERS, adds_photos
from mataserver_reconstruct.native import pycolmap

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from mataserver_reconstruct.workspace import Workspace

SMALLEST = 3
"""Photographs of the smallest model: with two, nothing confirms the depths."""

_SNAPSHOTS, _ATTEMPTS = 8, 4
_ENOUGH = 0.95
"""The placed share of a scene from which no further attempt is made."""
_MAX_GLOBAL_PHOTOS, _MAX_GLOBAL_MATCHES = 300, 5_000_000
"""The limits of global mapping: photographs of a scene, and verified matches in all.

Above these it takes too long: 400,000 matches took 1.6 s, 4.7 million took 43 s.
"""
_LONGEST, _MARGIN = 10.0, 1.5
"""The longest lens that COLMAP believes in, as a multiple of the picture's width, where no EXIF
tells a longer one; and how far, then, the one that is found may be from it."""
_NEAR = 4.0
"""Degrees between the rays of the first pair, in the median: COLMAP's default is 16."""


def build(workspace: Workspace, files: list[str], registered: Callable[[int], None]) -> list[Any]:
    """Return the models of one scene, pycolmap's reconstructions, the largest first.

    The first pair of a mapping decides how far it gets, and is random. One that placed less than
    half is repeated with other seeds, from pairs that COLMAP would not start with, and the best one
    counts: walking straight ahead gives no pair with a wide baseline. A scene of which the first
    attempt placed some photographs, or a later one half, but not all, is mapped globally, too,
    once. ``registered`` gets the number of photographs placed so far, at most. Raises what the job
    raises when it is to stop; ``load_unfinished`` then returns the partial result.
    """
    best: list[Any] = []
    most, averaged = 0, False

    def report(placed: int) -> None:
        nonlocal most
        if placed > most:
            most = placed
            registered(placed)

    for attempt in range(_ATTEMPTS):
        found = _map_incrementally(workspace, files, attempt, report)
        best = max(best, found, key=_placed)
        enough = _placed(best) >= len(files) / 2
        # A small model of a later attempt, which may begin with a narrow pair, may be that of a
        # camera that was only rotated.
        may_average = not averaged and (attempt == 0 or enough)
        if may_average and _should_map_globally(workspace, files, _placed(best)):
            averaged = True
            best = _better(best, _map_globally(workspace, files))
            report(_placed(best))
        if enough or _placed(best) >= len(files) / 2:
            break
    return best


def _should_map_globally(workspace: Workspace, files: list[str], placed: int) -> bool:
    """Whether to map a scene globally; not one without a model.

    Global mapping also places photographs of a rotated camera, arbitrarily.
    """
    if not 0 < placed < _ENOUGH * len(files) or len(files) > _MAX_GLOBAL_PHOTOS:
        return False
    return database.verified(workspace) <= _MAX_GLOBAL_MATCHES


def _placed(models: list[Any]) -> int:
    """Return the number of photographs of the largest model."""
    return max((model.num_reg_images() for model in models), default=0)


def _better(found: list[Any], other: list[Any]) -> list[Any]:
    """Return the models whose largest has more photographs, unless it leaves out more of them."""
    every, before = (set().union(*map(placed_files, models)) for models in (other, found))
    more = _placed(other) > _placed(found) and len(every) >= len(before)
    return other if more else found


def placed_files(model: Any) -> set[str]:
    """Return the files of the photographs of one of pycolmap's reconstructions."""
    return {model.image(at).name for at in model.reg_image_ids()}


def _map_globally(workspace: Workspace, files: list[str]) -> list[Any]:
    """Return the models of a global mapping, without unconnected photographs."""
    folder = _folder(workspace) / "at_once"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    found = [
        pycolmap.Reconstruction(path) for path in global_mapping.build(workspace, files, folder)
    ]
    return _usable_models(global_mapping.keep_connected(model) for model in found)


def _map_incrementally(
    workspace: Workspace, files: list[str], attempt: int, registered: Callable[[int], None]
) -> list[Any]:
    folder = _folder(workspace)
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "snapshots").mkdir(parents=True)
    (folder / "models").mkdir()
    placed = 0

    def count(number: int) -> None:
        nonlocal placed
        placed += number

    found = workspace.native.call(
        pycolmap.incremental_mapping,
        workspace.database,
        workspace.folder,
        folder / "models",
        options=_options(workspace, files, folder / "snapshots", attempt),
        initial_image_pair_callback=lambda: count(2),
        next_image_callback=lambda: count(1),
        poll=lambda: registered(min(placed, len(files))),  # in the main thread: it may stop
    )
    return _usable_models(found.values())


def load_unfinished(workspace: Workspace) -> list[Any]:
    """Return the partial result of a stopped mapping, the largest model first."""
    folder = _folder(workspace)
    found = [pycolmap.Reconstruction(path) for path in _written(folder / "models")]
    snapshots = _written(folder / "snapshots")
    if snapshots:
        found.append(pycolmap.Reconstruction(snapshots[-1]))
    return _usable_models(found)


def _folder(workspace: Workspace) -> Path:
    return workspace.work / "mapping"


def _written(folder: Path) -> list[Path]:
    """Return the folders with complete models, the newest last."""
    if not folder.is_dir():
        return []
    whole = [path.parent for path in folder.glob("*/points3D.bin")]
    return sorted(whole, key=lambda path: path.stat().st_mtime_ns)


def _usable_models(models: Iterable[Any]) -> list[Any]:
    """Return the models that are large enough, the largest first.

    COLMAP also returns a smaller one where it found no other, and one with hardly any points for a
    camera that was only rotated.
    """
    found = [
        model
        for model in models
        if model.num_reg_images() >= SMALLEST
        and model.compute_mean_observations_per_reg_image() >= MIN_INLIERS
    ]
    found.sort(key=lambda model: (-model.num_reg_images(), -model.num_points3D()))
    placed = [placed_files(model) for model in found]
    return [model for model, own in zip(found, adds_photos(placed), strict=True) if own]


def _longest_lens(workspace: Workspace, files: list[str]) -> float:
    """Return the longest lens that is believed, as a multiple of the picture's longer side."""
    own = set(files)
    told = max((p.exif.focal_35 for p in workspace.photos if p.file in own), default=0.0)
    return max(_LONGEST, _MARGIN * told / FULL_FRAME)


def _options(workspace: Workspace, files: list[str], snapshots: Path, attempt: int) -> Any:
    """Return options for deterministic models: one thread, seeds."""
    seed = (workspace.spec.seed + attempt) % 2**31  # COLMAP takes no larger one
    pycolmap.set_random_seed(seed)
    options = pycolmap.IncrementalPipelineOptions()
    options.image_names = files
    options.min_model_size = SMALLEST
    longest = _longest_lens(workspace, files)
    options.max_focal_length_ratio = longest
    options.max_extra_param *= (longest / _LONGEST) ** 2  # distortion by the same part of a picture
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
