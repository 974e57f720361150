"""The pipeline: photographs, features, matches, models, clouds, files. One function, ``run``."""

from __future__ import annotations

import contextlib
import importlib
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from mataserver_reconstruct import (
    advice,
    cloud,
    database,
    densify,
    graph,
    intake,
    level,
    mapping,
    matchers,
    overlaid,
    pairing,
    photos,
    report,
    scale,
    spec,
    stages,
    turned,
    verdicts,
    workspace,
)
from mataserver_reconstruct import model as models
from mataserver_reconstruct.files import REPORT
from mataserver_reconstruct.native import Native
from mataserver_reconstruct.outcome import Outcome
from mataserver_reconstruct.weights import Matchers

if TYPE_CHECKING:
    from mataserver_reconstruct.graph import Graph
    from mataserver_reconstruct.job import Job
    from mataserver_reconstruct.model import Model
    from mataserver_reconstruct.photos import Photo
    from mataserver_reconstruct.workspace import Progress, Workspace

_PRELOADED = ("networkx", "scipy.spatial")
"""Imports of the last steps; they run while COLMAP works in its own threads."""

_SPARSE = 0.3  # share of the stage, if depths follow
_NONE = cloud.Cloud(np.empty((0, 3)), np.empty((0, 3), np.uint8))


@dataclass
class _Findings:
    """The intermediate results.

    photos, advice: every photograph, and the advice about them.
    pairs:          the graph of the readable ones.
    scenes:         files of each scene with its models, pycolmap's.
    dense:          points of the models, in their order, if requested.
    """

    photos: list[Photo]
    advice: list[str]
    pairs: Graph
    scenes: list[tuple[list[str], list[Any]]] = field(default_factory=list)
    dense: list[cloud.Cloud] = field(default_factory=list)


def run(job: Job) -> dict[str, Any]:
    """Reconstruct ``job.input`` into ``job.output``; return the figures.

    An earlier attempt's state in ``job.work`` is continued. A job that is stopped during mapping
    writes its partial result. Raises ``MataError`` for an input or a spec that is refused.
    """
    asked, settings = spec.read(job.spec), msgspec.convert(job.settings or {}, Matchers)
    matchers.check(asked.matcher, settings)
    workspace.discard_stale(job, asked, settings)
    threading.Thread(target=_import_ahead, name="imports", daemon=True).start()
    every = photos.share_copies(photos.prepare(job, asked))
    scale.check(asked, every)
    made = workspace.Workspace(job.work, photos.readable(every), asked, Native(job), settings)
    told = advice.left_out(intake.left_out(job.input)) + advice.before(every, asked.camera)
    job.report(stages.EXTRACTING, 1, 1, " ".join(told) or f"{len(every)} photographs are read")
    found = _Findings(every, told, _match_photos(job, made))
    try:
        _map(job, made, found)
        _densify(job, made, found)
        job.report(stages.DECIMATING, 0, 1, "the clouds are cleaned and thinned")
    except BaseException:
        if job.stopping:
            _write_partial(job, made, found)
        raise
    figures = _write(job, made, found)
    last = " ".join(figures["advice"]) or "the files are written"
    job.report(stages.DECIMATING, 1, 1, last)
    return figures


def _import_ahead() -> None:
    """Import modules that are needed later; errors are raised again there."""
    with contextlib.suppress(ImportError):
        for name in _PRELOADED:
            importlib.import_module(name)


def _match_photos(job: Job, made: Workspace) -> Graph:
    """Match the photographs; return their graph."""
    if not made.photos:
        return graph.Graph({}, [])
    matcher = matchers.load(made.spec.matcher, made.matchers)
    files = [photo.file for photo in made.photos]

    def within(begin: float, end: float) -> Progress:
        def told(done: float, total: float, message: str) -> None:
            part = done / total if total else 1.0
            job.report(stages.MATCHING, begin + (end - begin) * part, 1.0, message)

        return told

    matcher.extract(made, within(0.0, 0.4))
    pairs = _pairs(made, matcher, files, within(0.4, 0.45))
    matcher.match(made, pairs, within(0.45, 1.0))
    return database.graph(made)._replace(detected=matcher.detects)


def _pairs(
    made: Workspace, matcher: matchers.Matcher, files: list[str], progress: Progress
) -> list[tuple[str, str]]:
    """Return the pairs to match."""
    if len(files) <= made.spec.exhaustive:
        return pairing.all_pairs(files)

    def told(done: int) -> None:
        progress(done, len(files), f"likely pairs of {done} of {len(files)} photographs")

    return pairing.likely_pairs(files, matcher.top_descriptors(made, files), told)


def _map(job: Job, made: Workspace, found: _Findings) -> None:
    """Add each scene with its models as they are built."""
    clusters = graph.clusters(found.pairs, made.spec.cluster)
    scenes = [files for files in clusters if len(files) >= mapping.SMALLEST]
    total, before = sum(map(len, scenes)), 0

    def told(placed: int) -> None:
        message = f"{before + placed} of {total} photographs have a place"
        share = _SPARSE if made.spec.density == "semi" else 1.0
        job.report(stages.TRIANGULATING, share * (before + placed) / total, 1.0, message)

    for files in scenes:
        told(0)
        found.scenes.append((files, []))
        _add(made, found, mapping.build(made, files, told))
        before += len(files)


def _add(made: Workspace, found: _Findings, built: list[Any]) -> None:
    """Add the models of the last scene, without those of a camera that was only turned."""
    for model in built:
        if not turned.only_turned(made, found.pairs.pairs, mapping.placed_files(model)):
            found.scenes[-1][1].append(model)


def _densify(job: Job, made: Workspace, found: _Findings) -> None:
    """Compute the dense points of each model, if requested."""
    if made.spec.density != "semi":
        return
    _, placed, _ = _placed(made, found)
    total, before = sum(len(model.views) for model in placed), 0

    def told(number: int) -> None:
        done = before + number
        message = f"depths of {done} of {total} photographs"
        job.report(stages.TRIANGULATING, _SPARSE + (1 - _SPARSE) * done / total, 1.0, message)

    for model in placed:
        found.dense.append(densify.dense_cloud(made, model, told))
        before += len(model.views)


def _write_partial(job: Job, made: Workspace, found: _Findings) -> None:
    """Write the partial result of a stopped mapping, if there is one."""
    if found.scenes and not found.scenes[-1][1]:
        _add(made, found, mapping.load_unfinished(made))
    if any(models for _, models in found.scenes):
        _write(job, made, found, partial=True)


def _write(job: Job, made: Workspace, found: _Findings, *, partial: bool = False) -> dict[str, Any]:
    """Write every file of the result; return the figures."""
    scenes, placed, scales = _placed(made, found)
    judged = verdicts.judge(found.photos, found.pairs, scenes, placed)
    told = found.advice + advice.after(found.pairs, [each for each, _ in found.scenes], judged)
    told += _overlaid(job, made, found, placed) + advice.bent(placed)
    told += advice.other_lenses(placed, found.photos) + scales
    dense = found.dense + [_NONE] * (len(placed) - len(found.dense))
    clouds = [_cloud(made, *each) for each in zip(placed, dense, strict=True)]
    outcome = Outcome(job.id, judged, found.pairs, placed, clouds, told, partial)
    figures = outcome.write(job.output, made.spec.dataset_name)
    shown = [verdict.photo.file for verdict in judged[: report.SHOWN] if verdict.photo.file]
    keypoints = database.keypoints(made, shown) if shown else {}
    photos.write_atomically(job.output / REPORT, report.write(made, outcome, keypoints).encode())
    return figures


def _overlaid(job: Job, made: Workspace, found: _Findings, placed: list[Model]) -> list[str]:
    """Return the advice about models that lie on top of themselves."""
    names = {photo.file: photo.name for photo in made.photos}
    told = []
    for model in placed:
        pair = overlaid.contradiction(model, made.folder, lambda: job.stopping)
        if pair is None:
            continue
        scenes = graph.clusters(found.pairs, "louvain")
        separable = not any(set(pair) <= set(files) for files in scenes)
        one, two = (names[file] for file in pair)
        told.append(advice.overlaid(model.name, (one, two), separable=separable))
    return told


def _placed(made: Workspace, found: _Findings) -> tuple[list[list[str]], list[Model], list[str]]:
    """Return the scenes with models, the models, largest first, and notes on their scales."""
    have = [each for each in found.scenes if each[1]]
    have.sort(key=lambda each: (-each[1][0].num_reg_images(), each[0]))
    lying = [
        models.model_from(model, cluster, index)
        for cluster, (_, of_scene) in enumerate(have)
        for index, model in enumerate(of_scene)
    ]
    placed = [
        level.level_model(model, made.spec.seed, scale.up(model, found.photos)) for model in lying
    ]
    placed.sort(key=lambda model: (-len(model.views), -len(model.xyz)))
    sized = [scale.apply_scale(model, found.photos, made.spec.scale) for model in placed]
    told = [sentence for _, sentence in sized if sentence]
    return [files for files, _ in have], [model for model, _ in sized], told


def _cloud(made: Workspace, model: Model, dense: cloud.Cloud) -> cloud.Cloud:
    """Return the final cloud of a model: cleaned and downsampled."""
    keep = cloud.reliable_points(model)
    whole = cloud.Cloud(np.r_[model.xyz[keep], dense.xyz], np.r_[model.rgb[keep], dense.rgb])
    part = densify.VOXEL if len(dense.xyz) else cloud.VOXEL
    thin = cloud.voxel_downsample(whole, made.spec.voxel, made.spec.max_points, part)
    near = cloud.has_neighbours(thin.xyz)
    return cloud.Cloud(thin.xyz[near], thin.rgb[near])
