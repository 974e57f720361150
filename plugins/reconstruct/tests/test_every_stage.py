"""A reconstruction that is cancelled, or whose disk is full, in each of its stages."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from mataserver_reconstruct.stages import STAGES

pytestmark = [pytest.mark.timeout(600), pytest.mark.long]

RUN = """
import json, os, resource, signal, sys
from mataserver import MataError
from mataserver_jobs.kinds import Assignment, Cancelled, Job
from mataserver_reconstruct import kind

folder, what, stage = sys.argv[1:]
spec = {"max_size": 640, "max_keypoints": 1024}
told = []

def tell(report):
    told.append(report.stage)
    if report.stage == stage and what == "cancel":
        os.kill(os.getpid(), signal.SIGTERM)
    if report.stage == stage and what == "full":
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, 1_000))

job = Job(Assignment("a" * 36, "", spec, folder, 1), spec, tell)
job.listen()
try:
    end = kind.reconstruct(job)["n_registered"]
except Cancelled:
    end = "cancelled"
except MataError as error:
    end = f"{error.status} {error.detail}"
print(json.dumps([told[-1], end]))
"""


def ran(folder, what="", stage=""):
    """Run a job; return its exit status, the last stage that it told, and how it ended."""
    command = [sys.executable, "-c", RUN, str(folder), what, stage]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.returncode, *(json.loads(done.stdout) if done.stdout else (None, None))


@pytest.fixture
def folder(strip, tmp_path):
    """The folder of a job with six photographs."""
    (tmp_path / "input").mkdir()
    for path in strip.iterdir():
        (tmp_path / "input" / path.name).write_bytes(path.read_bytes())
    return tmp_path


def test_cancelled_in_every_stage(folder):
    """It ends in that stage, as cancelled; the next attempt goes on, the last one to the end."""
    for stage in STAGES:
        assert ran(folder, "cancel", stage) == (0, stage, "cancelled")
    assert ran(folder) == (0, "decimating", 6)


def test_a_disk_that_is_full_from_every_stage_on(folder):
    """It says so, or COLMAP ends it: never a result that is wrong; with room again it goes on."""
    full = "507 The disk is full; restart the job once there is room"
    for stage in STAGES:
        status, last, end = ran(folder, "full", stage)
        assert status != 0 or (
            end == full and list(STAGES).index(last) >= list(STAGES).index(stage)
        )
        assert not (folder / "output" / "report.html").exists()
    assert ran(folder) == (0, "decimating", 6)
    assert (folder / "output" / "report.html").exists()
