"""What a Triton tells of itself is taken as it comes, and costs no more than reading it."""

from __future__ import annotations

import subprocess
import sys

import pytest

from mataserver_fleet.repository import repository
from mataserver_fleet.triton_answers import MAX_GPUS, Gpu, ModelCount, TritonError, gpus_of

GOOD = b'nv_gpu_memory_used_bytes{gpu_uuid="GPU-1"} 1000000000.000000\n'
HOSTILE = (b"nv_gpu_a{", b"nv_gpu_", b'nv_gpu_a{gpu_uuid="x"', b'nv_gpu_a{gpu_uuid="x"\n')
READ = """
import sys
from mataserver_fleet.triton_answers import gpus_of
print(len(gpus_of(sys.stdin.buffer.read())))
"""


@pytest.mark.parametrize("piece", HOSTILE)
def test_a_page_of_metrics_that_is_made_to_be_slow(piece):
    """A page of a megabyte is read once; matching it in every way would take days."""
    page = piece * (1_000_000 // len(piece)) + b"\n" + GOOD
    done = subprocess.run(
        [sys.executable, "-c", READ], input=page, capture_output=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout) == (0, b"1\n"), done.stderr


def test_odd_pages_of_metrics():
    """What is there twice counts as it stands last; labels may be in any order; most is bounded."""
    assert gpus_of(GOOD + GOOD.replace(b"1000000000", b"5")) == [Gpu("GPU-1", 5.0)]
    named = b'nv_gpu_utilization{host="a",gpu_uuid="GPU-1",pod="b"} 0.5\n'
    assert gpus_of(named + GOOD) == [Gpu("GPU-1", 1e9, None, 0.5)]
    for value in (b"NaN", b"Inf", b"", b"1 2", b"x"):
        assert gpus_of(GOOD.replace(b"1000000000.000000", value)) == []
    assert gpus_of(GOOD.replace(b"1000000000.000000", b"--")) == [Gpu("GPU-1", 0.0)]
    many = b"".join(GOOD.replace(b"GPU-1", b"%d" % each) for each in range(10 * MAX_GPUS))
    assert [each.id for each in gpus_of(many)] == [str(each) for each in range(MAX_GPUS)]


class Entry:
    """A line of an index, which counts how often its name is read."""

    reads = 0

    def __init__(self, name, reason=""):
        self._name, self.reason, self.version, self.state = name, reason, "1", "UNAVAILABLE"

    @property
    def name(self):
        """Its name."""
        Entry.reads += 1
        return self._name


class Indexed:
    """A Triton with an index."""

    def __init__(self, index):
        self._index = index

    async def index(self):
        """Return the index."""
        return self._index

    async def counts(self):
        """Return what it serves."""
        return [ModelCount("served", 2, 0, 0, 0.0), ModelCount("served", 1, 0, 0, 0.0)]

    async def config(self, name):
        """Return a configuration."""
        return b'{"name": "%b"}' % name.encode()


async def test_a_repository_of_very_many_models():
    """Each line of an index is looked at a few times, however many there are, and names may be odd.

    A hundred thousand lines that were each compared with all others took minutes of the server.
    """
    Entry.reads = 0
    odd = [Entry("a/../etc"), Entry("späti\n"), Entry(".git"), Entry("served", "old"), Entry("")]
    index = [*odd, *(Entry(f"m{each}", "no\nfile") for each in range(1_000)), Entry("m7", "later")]
    found = await repository(Indexed(index), full=False)
    assert Entry.reads <= 5 * len(index)
    assert found.total == 1_004
    by_name = {each.name: each for each in found.models}
    assert (by_name["m7"].reason, by_name["a/../etc"].reason) == ("no", "")
    served = by_name["served"]
    assert (served.versions, served.reason, served.config) == (["1", "2"], "", {"name": "served"})
    assert ".git" not in by_name


async def test_configurations_without_an_end():
    """They are read up to a limit for all together: each may be large, and there are many."""
    asked = []

    class Large(Indexed):
        async def counts(self):
            return [ModelCount(f"m{each:04}", 1, 0, 0, 0.0) for each in range(9_000)]

        async def config(self, name):
            asked.append(name)
            return b'{"a": "%b"}' % (b"x" * 1_000_000)

    with pytest.raises(TritonError, match="over 32 MB together"):
        await repository(Large([]), full=True)
    assert len(asked) == 32
