"""The matchers: who finds features in photographs and matches them.

Asking what is there imports none of them.
"""

from __future__ import annotations

import importlib
from importlib.util import find_spec
from typing import TYPE_CHECKING, Protocol

from mataserver import InvalidParams, Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mataserver_reconstruct.study import Study

    Progress = Callable[[float, float, str], None]

DEFAULT = "sift"


class Matcher(Protocol):
    """Fills a study's database with features, matches and verified pairs.

    Both steps go on where an earlier attempt ended, and tell how far they are: done, total and a
    sentence.
    """

    def extract(self, study: Study, progress: Progress) -> None:
        """Find the features of every photograph."""

    def match(self, study: Study, pairs: Sequence[tuple[str, str]], progress: Progress) -> None:
        """Match pairs of photographs, named by their files, and verify them by geometry."""


class Offer:
    """One matcher that can be asked for: what it needs, and where its code is."""

    def __init__(self, place: str, needs: str, licence: str) -> None:
        self.place = place
        self.needs = needs
        self.licence = licence

    def missing(self) -> str:
        """Return the sentence why it cannot work here; "" when it can."""
        if find_spec(self.needs) is not None:
            return ""
        return f"the package {self.needs} is not installed: pip install {self.needs}"


OFFERS = {DEFAULT: Offer("mataserver_reconstruct.sift:Sift", "pycolmap", "BSD-3-Clause")}
"""Every matcher by its name."""

_LEARNED = frozenset(
    {"superpoint_lightglue", "disk_lightglue", "aliked_lightglue", "loftr", "mast3r", "fusion"}
)


def check(name: str) -> None:
    """Raise ``InvalidParams`` for a matcher that is none, ``Unavailable`` for one not here."""
    offer = OFFERS.get(name)
    if offer is None and name in _LEARNED:
        raise Unavailable(
            f"the matcher {name} needs learned weights, and this version brings none; "
            f"use {' or '.join(OFFERS)}"
        )
    if offer is None:
        raise InvalidParams(f"there is no matcher {name!r}; there is {', '.join(OFFERS)}")
    if offer.missing():
        raise Unavailable(f"the matcher {name} cannot work: {offer.missing()}")


def load(name: str) -> Matcher:
    """Return a matcher, in a job's process. Raises as ``check`` does."""
    check(name)
    module, _, attribute = OFFERS[name].place.partition(":")
    made: Matcher = getattr(importlib.import_module(module), attribute)()
    return made
