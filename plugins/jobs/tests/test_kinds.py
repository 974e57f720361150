"""A kind of jobs that could never run is refused where it is made, not when its jobs fail."""

from __future__ import annotations

import operator

import job_functions
import pytest
from msgspec import Struct

from mataserver import MataError
from mataserver_jobs import JobKind
from mataserver_jobs.api import JobsService

SOUND = {"name": "count", "run": job_functions.count, "spec": Struct}


def nothing():
    """Takes no job."""


async def wait(_job):
    """Waits, and nobody waits for it."""


class Task:
    """Has a function that no process could import by its name."""

    @staticmethod
    def run(job):
        """Never runs."""


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"name": "night report"}, "the kind of jobs 'night report': name: letters, digits,"),
        ({"name": None}, "the kind of jobs None: name:"),
        ({"run": lambda _job: None}, "count: run must be a function at the top level"),
        ({"run": Task.run}, "count: run must be a function at the top level"),
        ({"run": Task}, "count: run must be a function at the top level"),
        ({"run": nothing}, "count: run is called with (job), and takes ()"),
        ({"run": wait}, "count: run must be a plain def, not async def"),
        ({"told": nothing}, "count: told is called with (result), and takes ()"),
        ({"told": "Done."}, "count: told must be a function"),
        ({"check": wait}, "count: check must be a plain def, not async def"),
        ({"spec": dict}, "count: spec must be a msgspec.Struct type"),
        ({"spec": Struct()}, "count: spec must be a msgspec.Struct type"),
        ({"stages": {"counting": (0, 300)}}, "the stage 'counting' needs its first and last"),
        ({"stages": {"counting": (50, 10)}}, "the stage 'counting' needs its first and last"),
        ({"stages": {"counting": 50}}, "the stage 'counting' needs its first and last"),
    ],
)
def test_a_kind_that_could_not_run(wrong, told):
    """Its sentence names the kind and the field."""
    assert JobKind(**SOUND).name == "count"
    with pytest.raises(MataError) as refused:
        JobKind(**SOUND | wrong)
    assert told in refused.value.detail


def test_functions_whose_signature_is_not_their_own():
    """A decorator's function is what is called; one in C has no signature."""

    def decorated(job):
        return nothing()

    decorated.__wrapped__ = nothing
    decorated.__qualname__ = "decorated"
    assert JobKind(**SOUND | {"run": decorated, "check": dict}).run is decorated


@pytest.mark.parametrize("told", ["{0[count]} counted".format, str, operator.itemgetter("text")])
def test_functions_in_c(told):
    """What tells no signature is taken as it is."""
    assert JobKind(**SOUND, told=told).told is told


class Gives:
    """A service that gives something for its kinds."""

    def __init__(self, given):
        self._given = given

    def jobs(self):
        """Return what it was made with."""
        return self._given


@pytest.mark.parametrize("given", [["count"], "count", None, JobKind(**SOUND)])
def test_what_is_no_list_of_kinds(given):
    """The plugin is refused with a sentence, and owns no kind."""
    jobs = object.__new__(JobsService)
    jobs._owners = {}
    with pytest.raises(MataError, match="must return a list of JobKind"):
        jobs.admits("lab", Gives(given))
    jobs.admits("other", Gives(each for each in [JobKind(**SOUND)]))
    with pytest.raises(MataError, match="belongs to other already: count"):
        jobs.admits("lab", Gives([JobKind(**SOUND)]))
