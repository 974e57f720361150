"""The matchers: who finds features in photographs and matches them.

Asking what is there imports none of them.
"""

from __future__ import annotations

import importlib
import shutil
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from mataserver import InvalidParams, Unavailable
from mataserver_reconstruct import weights
from mataserver_reconstruct.weights import Checkpoint, Outside, Two

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from mataserver_reconstruct.study import Progress, Study
    from mataserver_reconstruct.weights import Matchers

DEFAULT, FUSION = "sift", "fusion"
_LISTED = "fusion:"


class Matcher(Protocol):
    """Fills a study's database with features, matches and verified pairs.

    Both steps go on where an earlier attempt ended, and tell how far they are: done, total and a
    sentence. ``detects``: whether it finds features before it matches.
    """

    detects: bool

    def extract(self, study: Study, progress: Progress) -> None:
        """Find the features of every photograph."""

    def glances(self, study: Study, files: Sequence[str]) -> list[NDArray[np.float32]]:
        """Return the descriptors of each photograph's foremost features, as ``pairing`` does."""

    def match(self, study: Study, pairs: Sequence[tuple[str, str]], progress: Progress) -> None:
        """Match pairs of photographs, named by their files, and verify them by geometry."""


class Offer(NamedTuple):
    """One matcher that can be asked for: the packages that it needs, and where its finder is."""

    packages: tuple[str, ...]
    finder: str


_FEATURES = "mataserver_reconstruct.sparse:Sparse"
_PAIRS = "mataserver_reconstruct.dense:Dense"
OFFERS = {
    DEFAULT: Offer(("pycolmap",), "mataserver_reconstruct.sift:SiftFinder"),
    "superpoint_lightglue": Offer(("torch", "transformers"), _FEATURES),
    "disk_lightglue": Offer(("torch", "kornia"), _FEATURES),
    "aliked_lightglue": Offer(("torch", "kornia"), _FEATURES),
    "loftr": Offer(("torch", "kornia"), _PAIRS),
    "mast3r": Offer((), _PAIRS),
}
"""Every matcher by its name, but for ``fusion``, which mixes some of them."""

NETWORKS = {
    "superpoint_lightglue": "mataserver_reconstruct.superpoint:SuperPoint",
    "disk_lightglue": "mataserver_reconstruct.kornia_networks:Disk",
    "aliked_lightglue": "mataserver_reconstruct.kornia_networks:Aliked",
    "loftr": "mataserver_reconstruct.kornia_networks:Loftr",
}
"""Where the networks are of those that are ours."""


def parts(name: str, settings: Matchers) -> tuple[str, ...]:
    """Return the matchers that a name stands for. Raises ``InvalidParams`` for none.

    ``fusion`` is the mix of the settings, ``fusion:a,b`` one of its own.
    """
    mixed = name == FUSION or name.startswith(_LISTED)
    listed = tuple(part.strip() for part in name.removeprefix(_LISTED).split(","))
    found = (tuple(settings.fusion) if name == FUSION else listed) if mixed else (name,)
    for each in found:
        if each not in OFFERS:
            there = ", ".join([*OFFERS, FUSION])
            raise InvalidParams(f"there is no matcher {each[:64]!r}; there is {there}")
    if len(set(found)) < len(found) or (mixed and len(found) < 2):
        raise InvalidParams("a fusion needs two or more different matchers")
    return found


def missing(name: str, settings: Matchers) -> str:
    """Return the sentence why a matcher cannot work here; "" when it can."""
    reasons = {part: _missing(part, settings) for part in parts(name, settings)}
    told = [f"{part}: {why}" for part, why in reasons.items() if why]
    return "; ".join(told) if len(reasons) > 1 else reasons.get(name, "")


def _missing(part: str, settings: Matchers) -> str:
    for package in OFFERS[part].packages:
        if find_spec(package) is None:
            return f"the package {package} is not installed: pip install {package}"
    needs = getattr(settings, part, None)
    where = f"plugins.reconstruct.matchers.{part}"
    if isinstance(needs, Checkpoint) and weights.found(needs.weights) is None:
        return f"its weights are not on this machine: see {where}.weights"
    if isinstance(needs, Two):
        for field in ("features", "matcher"):
            if weights.found(getattr(needs, field)) is None:
                return f"its weights are not on this machine: see {where}.{field}"
    return _unready(needs, where) if isinstance(needs, Outside) else ""


def _unready(needs: Outside, where: str) -> str:
    """Return why a program of the operator's cannot be run; "" when it can."""
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
    """Raise ``InvalidParams`` for a matcher that is none, ``Unavailable`` for one not here."""
    why = missing(name, settings)
    if why:
        raise Unavailable(f"the matcher {name} cannot work: {why}")


def load(name: str, settings: Matchers) -> Matcher:
    """Return a matcher, in a job's process. Raises as ``check`` does."""
    check(name, settings)
    if name == DEFAULT:
        from mataserver_reconstruct.sift import Sift  # brings COLMAP, as all that follow

        return Sift()
    from mataserver_reconstruct.imported import Imported

    return Imported([_finder(part, settings) for part in parts(name, settings)])


def _finder(part: str, settings: Matchers) -> Any:
    module, _, attribute = OFFERS[part].finder.partition(":")
    return getattr(importlib.import_module(module), attribute)(part, settings)
