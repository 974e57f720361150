"""Learned features that are found in each photograph, and then matched by pairs."""

from __future__ import annotations

import io
import sys
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from mataserver import MataError
from mataserver_reconstruct import pairing, program, workspace
from mataserver_reconstruct.photos import write_atomically
from mataserver_reconstruct.program import MatcherRequest, Pair

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from mataserver_reconstruct.weights import Matchers
    from mataserver_reconstruct.workspace import Progress, Workspace

COMMAND = (sys.executable, "-m", "mataserver_reconstruct.networks")
MAX_FEATURES = 2_048
"""The maximum features of one photograph: the cost of a pair grows with their square."""


def write(path: Path, **arrays: NDArray[Any]) -> None:
    """Write arrays into one file atomically: the process may be killed at any moment."""
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    write_atomically(path, buffer.getvalue())


def read(path: Path, *names: str) -> list[NDArray[Any]]:
    """Return arrays of a file. Raises ``MataError`` for one that does not hold them."""
    try:
        with np.load(path, allow_pickle=False) as held:
            return [held[name] for name in names]
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise MataError(f"{path.name} does not hold what a matcher finds: {error}") from error


def matcher_request(
    workspace: Workspace, name: str, settings: Matchers, output: Path, **asked: Any
) -> MatcherRequest:
    """Return the input of a matcher's program."""
    output.mkdir(parents=True, exist_ok=True)
    return MatcherRequest(
        photos=str(workspace.folder),
        output=str(output),
        most=min(workspace.spec.max_keypoints, MAX_FEATURES),
        seed=workspace.spec.seed,
        threads=workspace.threads,
        matcher=name,
        settings=msgspec.to_builtins(settings),
        **asked,
    )


class SparseFinder:
    """A network that finds features and one that matches them.

    Each photograph's features are in a separate file, in pixels of the network's input; the center
    of the upper left one is 0, 0.
    """

    detects = True

    def __init__(self, name: str, settings: Matchers) -> None:
        self.name = name
        self._settings = settings

    def find(self, workspace: Workspace, progress: Progress) -> None:
        """Find the features of the photographs that have none yet."""
        files = [photo.file for photo in workspace.photos]
        left = [file for file in files if not self._features(workspace, file).exists()]
        told = line_progress(len(files), len(left), "features of {} of {} photographs", progress)
        if left:
            asked = matcher_request(
                workspace, self.name, self._settings, self._folder(workspace), files=left
            )
            program.run(workspace, self.name, COMMAND, asked, told)

    def match(
        self, workspace: Workspace, pairs: Sequence[tuple[str, str]], progress: Progress
    ) -> None:
        """Match the pairs that are not matched yet."""
        folder = self._folder(workspace)
        named = [Pair(*pair, pair_file(*pair)) for pair in pairs]
        left = [each for each in named if not (folder / each.file).exists()]
        told = line_progress(len(named), len(left), "matches of {} of {} pairs", progress)
        if left:
            asked = matcher_request(workspace, self.name, self._settings, folder, pairs=left)
            program.run(workspace, self.name, COMMAND, asked, told)

    def top_descriptors(
        self, workspace: Workspace, files: Sequence[str]
    ) -> list[NDArray[np.float32]]:
        """Return the descriptors of each photograph's features with the highest scores."""
        found = []
        for file in files:
            score, descriptors = read(self._features(workspace, file), "score", "descriptors")
            best = np.argsort(-score, kind="stable")[: pairing.TOP_FEATURES]
            found.append(np.asarray(descriptors[best], np.float32))
        return found

    def keypoints(self, workspace: Workspace, file: str) -> NDArray[np.float32]:
        """Return a photograph's keypoints, ``[n, 2]``, in COLMAP's pixels.

        These are pixels of the photograph's file; the center of the upper left one is 0.5, 0.5.
        """
        xy, size = read(self._features(workspace, file), "xy", "size")
        photo = next(each for each in workspace.photos if each.file == file)
        return np.asarray((xy + 0.5) * ((photo.width, photo.height) / size), np.float32)

    def matches(self, workspace: Workspace, first: str, second: str) -> NDArray[np.uint32]:
        """Return the matches of a pair: indices in the keypoints of both, ``[m, 2]``."""
        (found,) = read(self._folder(workspace) / pair_file(first, second), "matches")
        return np.asarray(found, np.uint32).reshape(-1, 2)

    def _folder(self, made: Workspace) -> Path:
        return made.work / workspace.MATCHER_FOLDER / self.name

    def _features(self, made: Workspace, file: str) -> Path:
        return self._folder(made) / f"{file}.npz"


def pair_file(first: str, second: str) -> str:
    """Return the name of the file of a pair."""
    return f"{first}-{second}.npz"


def line_progress(total: int, left: int, message: str, progress: Progress) -> Callable[[int], None]:
    """Return a callback that turns a program's line count into progress."""

    def told(count: int) -> None:
        done = min(total, total - left + count)
        progress(done, total, message.format(done, total))

    return told
