"""Learned features that are found in each photograph, and then matched by pairs."""

from __future__ import annotations

import io
import sys
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from mataserver import MataError
from mataserver_reconstruct import pairing, program, study
from mataserver_reconstruct.photos import replace
from mataserver_reconstruct.program import Order, Pair

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from mataserver_reconstruct.study import Progress, Study
    from mataserver_reconstruct.weights import Matchers

COMMAND = (sys.executable, "-m", "mataserver_reconstruct.networks")
MOST = 2_048
"""Features of one photograph at most: what a pair costs grows by their square."""


def write(path: Path, **arrays: NDArray[Any]) -> None:
    """Write arrays into one file at once: a process may be killed at any moment."""
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    replace(path, buffer.getvalue())


def read(path: Path, *names: str) -> list[NDArray[Any]]:
    """Return arrays of a file. Raises ``MataError`` for one that does not hold them."""
    try:
        with np.load(path, allow_pickle=False) as held:
            return [held[name] for name in names]
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise MataError(f"{path.name} does not hold what a matcher finds: {error}") from error


def order(study: Study, name: str, settings: Matchers, output: Path, **asked: Any) -> Order:
    """Return what the program of a matcher is told."""
    output.mkdir(parents=True, exist_ok=True)
    return Order(
        photos=str(study.folder),
        output=str(output),
        most=min(study.spec.max_keypoints, MOST),
        seed=study.spec.seed,
        threads=study.threads,
        matcher=name,
        settings=msgspec.to_builtins(settings),
        **asked,
    )


class Sparse:
    """A network that finds features and one that matches them.

    The features of a photograph are in a file of their own, in pixels of what the network saw; the
    centre of the upper left one is 0, 0.
    """

    detects = True

    def __init__(self, name: str, settings: Matchers) -> None:
        self.name = name
        self._settings = settings

    def find(self, study: Study, progress: Progress) -> None:
        """Find the features of every photograph; those that were found stay."""
        files = [photo.file for photo in study.photos]
        left = [file for file in files if not self._features(study, file).exists()]
        told = counted(len(files), len(left), "features of {} of {} photographs", progress)
        if left:
            asked = order(study, self.name, self._settings, self._folder(study), files=left)
            program.run(study, self.name, COMMAND, asked, told)

    def match(self, study: Study, pairs: Sequence[tuple[str, str]], progress: Progress) -> None:
        """Match pairs; those that were matched stay."""
        folder = self._folder(study)
        named = [Pair(*pair, pair_file(*pair)) for pair in pairs]
        left = [each for each in named if not (folder / each.file).exists()]
        told = counted(len(named), len(left), "matches of {} of {} pairs", progress)
        if left:
            asked = order(study, self.name, self._settings, folder, pairs=left)
            program.run(study, self.name, COMMAND, asked, told)

    def glances(self, study: Study, files: Sequence[str]) -> list[NDArray[np.float32]]:
        """Return the descriptors of each photograph's surest features."""
        found = []
        for file in files:
            score, descriptors = read(self._features(study, file), "score", "descriptors")
            best = np.argsort(-score, kind="stable")[: pairing.GLANCE]
            found.append(np.asarray(descriptors[best], np.float32))
        return found

    def keypoints(self, study: Study, file: str) -> NDArray[np.float32]:
        """Return a photograph's keypoints, ``[n, 2]``, as COLMAP counts pixels.

        That is in those of the photograph's file, the centre of the upper left one is 0.5, 0.5.
        """
        xy, size = read(self._features(study, file), "xy", "size")
        photo = next(each for each in study.photos if each.file == file)
        return np.asarray((xy + 0.5) * ((photo.width, photo.height) / size), np.float32)

    def matches(self, study: Study, first: str, second: str) -> NDArray[np.uint32]:
        """Return the matches of a pair: places in the keypoints of both, ``[m, 2]``."""
        (found,) = read(self._folder(study) / pair_file(first, second), "matches")
        return np.asarray(found, np.uint32).reshape(-1, 2)

    def _folder(self, made: Study) -> Path:
        return made.work / study.FOUND / self.name

    def _features(self, made: Study, file: str) -> Path:
        return self._folder(made) / f"{file}.npz"


def pair_file(first: str, second: str) -> str:
    """Return the name of the file of a pair."""
    return f"{first}-{second}.npz"


def counted(total: int, left: int, message: str, progress: Progress) -> Callable[[int], None]:
    """Return what a program is followed by: a line for each part that it has done."""

    def told(count: int) -> None:
        done = min(total, total - left + count)
        progress(done, total, message.format(done, total))

    return told
