"""The matchers, which find features in photographs and match them.

Checking their availability imports none of them.
"""

from __future__ import annotations

import importlib
import shutil
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from mataserver import InvalidParams, Unavailable
from mataserver_reconstruct import weights
from mataserver_reconstruct.weights import Checkpoint, DetectorAndMatcher, ExternalProgram

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from mataserver_reconstruct.weights import Matchers
    from mataserver_reconstruct.workspace import Progress, Workspace

DEFAULT, FUSION = "sift", "fusion"
_FUSION_PREFIX = "fusion:"


class Matcher(Protocol):
    """Fills a workspace's database with features, matches and verified pairs.

    Both steps continue an earlier attempt, and report their progress: done, total and a sentence.
    ``detects``: whether it finds features before it matches.
    """

    detects: bool

    def extract(self, workspace: Workspace, progress: Progress) -> None:
        """Find the features of every photograph."""

    def top_descriptors(
        self, workspace: Workspace, files: Sequence[str]
    ) -> list[NDArray[np.float32]]:
        """Return the descriptors of each photograph's strongest features, for ``pairing``."""

    def match(
        self, workspace: Workspace, pairs: Sequence[tuple[str, str]], progress: Progress
    ) -> None:
        """Match pairs of photographs, named by their files, and verify them by geometry."""


class MatcherSpec(NamedTuple):
    """One available matcher: the packages that it needs, and the path of its finder class."""

    packages: tuple[str, ...]
    finder: str


_FEATURES = "mataserver_reconstruct.sparse:SparseFinder"
_PAIRS = "mataserver_reconstruct.dense:DenseFinder"
MATCHERS = {
    DEFAULT: MatcherSpec(("pycolmap",), "mataserver_reconstruct.sift:SiftFinder"),
    "superpoint_lightglue": MatcherSpec(("torch", "transformers"), _FEATURES),
    "disk_lightglue": MatcherSpec(("torch", "kornia"), _FEATURES),
    "aliked_lightglue": MatcherSpec(("torch", "kornia"), _FEATURES),
    "loftr": MatcherSpec(("torch", "kornia"), _PAIRS),
    "mast3r": MatcherSpec((), _PAIRS),
}
"""Every matcher by its name, except ``fusion``, which combines some of them."""

NETWORKS = {
    "superpoint_lightglue": "mataserver_reconstruct.superpoint:SuperPoint",
    "disk_lightglue": "mataserver_reconstruct.kornia_networks:Disk",
    "aliked_lightglue": "mataserver_reconstruct.kornia_networks:Aliked",
    "loftr": "mataserver_reconstruct.kornia_networks:Loftr",
}
"""The network classes of this plugin's learned matchers."""


def expand(name: str, settings: Matchers) -> tuple[str, ...]:
    """Return the matchers that a name stands for. Raises ``InvalidParams`` for an unknown name.

    ``fusion`` is the combination in the settings, ``fusion:a,b`` a custom one.
    """
    mixed = name == FUSION or name.startswith(_FUSION_PREFIX)
    listed = tuple(part.strip() for part in name.removeprefix(_FUSION_PREFIX).split(","))
    found = (tuple(settings.fusion) if name == FUSION else listed) if mixed else (name,)
    for each in found:
        if each not in MATCHERS:
            there = ", ".join([*MATCHERS, FUSION])
            raise InvalidParams(f"there is no matcher {each[:64]!r}; there is {there}")
    if len(set(found)) < len(found) or (mixed and len(found) < 2):
        raise InvalidParams("a fusion needs two or more different matchers")
    return found


def problem_of(name: str, settings: Matchers) -> str:
    """Return the sentence why a matcher is not available; "" when it is."""
    reasons = {part: _problem_of(part, settings) for part in expand(name, settings)}
    told = [f"{part}: {why}" for part, why in reasons.items() if why]
    return "; ".join(told) if len(reasons) > 1 else reasons.get(name, "")


def _problem_of(part: str, settings: Matchers) -> str:
    for package in MATCHERS[part].packages:
        if find_spec(package) is None:
            return f"the package {package} is not installed: pip install {package}"
    needs = getattr(settings, part, None)
    where = f"plugins.reconstruct.matchers.{part}"
    if isinstance(needs, Checkpoint) and weights.locate(needs.weights) is None:
        return f"its weights are not on this machine: see {where}.weights"
    if isinstance(needs, DetectorAndMatcher):
        for field in ("features", "matcher"):
            if weights.locate(getattr(needs, field)) is None:
                return f"its weights are not on this machine: see {where}.{field}"
    return _program_problem(needs, where) if isinstance(needs, ExternalProgram) else ""


def _program_problem(needs: ExternalProgram, where: str) -> str:
    """Return why the operator's program cannot be run; "" when it can."""
    if not needs.command:
        return f"it is a program that is not part of this server: see {where}.command"
    if shutil.which(needs.command[0]) is None:
        return f"its program is not on this machine: see {where}.command"
    if not needs.licence_acknowledged:
        return (
            "its licence, CC BY-NC-SA 4.0, allows no commercial use and is not acknowledged: see "
            f"{where}.licence_acknowledged"
        )
    return ""


def check(name: str, settings: Matchers) -> None:
    """Raise ``InvalidParams`` for an unknown matcher, ``Unavailable`` for an unusable one."""
    why = problem_of(name, settings)
    if why:
        raise Unavailable(f"the matcher {name} cannot work: {why}")


def load(name: str, settings: Matchers) -> Matcher:
    """Return a matcher, in a job's process. Raises as ``check`` does."""
    check(name, settings)
    if name == DEFAULT:
        from mataserver_reconstruct.sift import Sift  # imports COLMAP, as all below

        return Sift()
    from mataserver_reconstruct.imported import ImportedMatcher

    return ImportedMatcher([_finder(part, settings) for part in expand(name, settings)])


def _finder(part: str, settings: Matchers) -> Any:
    module, _, attribute = MATCHERS[part].finder.partition(":")
    return getattr(importlib.import_module(module), attribute)(part, settings)
