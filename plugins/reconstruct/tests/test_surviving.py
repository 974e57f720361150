"""kill -9 of the server at every stage, and cancellation: nothing is lost or done twice."""

from __future__ import annotations

import csv
import io
import subprocess
import sys

import pytest
from apart import STAGES, Server, standing_still, until_asked_to_end
from serving_reconstruct import QUICK, packed

pytestmark = [pytest.mark.timeout(300), pytest.mark.long]


@pytest.fixture(scope="module")
def photographs(strip):
    """A ZIP of six photographs of a scene."""
    return packed(strip)


def test_kill_9_at_every_stage(photographs, tmp_path):
    """A job whose server is killed in each of its stages ends as one that was left alone."""
    server = Server(tmp_path)
    job = server.send(photographs, **QUICK).json["job_id"]
    folder, progress = tmp_path / "jobs" / job, [0]
    for stage in STAGES:
        with standing_still(server.process.pid, folder, stage):
            server.kill()
        server = Server(tmp_path)
        progress.append(server.ask("GET", f"/status/{job}").json["progress"])
    try:
        done = server.until(f"/status/{job}", lambda a: a.json["finished_at"]).json
        assert (done["stage"], done["registration_rate"]) == ("success", 1.0)
        assert progress == sorted(progress)
        shown = server.ask("GET", f"/v1/jobs/{job}").json
        assert shown["attempt"] == 5
        text = server.ask("GET", f"/download/jobs/{job}/csv").body.decode()
        assert len(list(csv.DictReader(io.StringIO(text)))) == 6
        left = [path.name for path in folder.rglob("*") if path.name.endswith(".new")]
        assert left == []
        assert len(server.ask("GET", "/drift/history").body.splitlines()) == 1
    finally:
        server.kill()


def test_cancelled_at_a_stage(photographs, tmp_path):
    """A job that is cancelled keeps its percent; without a model its downloads are 409."""
    server = Server(tmp_path)
    try:
        job = server.send(photographs, **QUICK).json["job_id"]
        with standing_still(server.process.pid, tmp_path / "jobs" / job, "matching") as child:
            assert server.ask("POST", f"/v1/jobs/{job}/cancel").status == 202
            until_asked_to_end(child)
        shown = server.until(f"/status/{job}", lambda a: a.json["finished_at"]).json
        assert (shown["stage"], shown["error"]) == ("cancelled", None)
        assert 10 <= shown["progress"] < 85
        assert server.ask("GET", f"/download/jobs/{job}").status == 409
        restarted = server.ask("POST", f"/v1/jobs/{job}/restart")
        assert restarted.status == 202
        done = server.until(f"/status/{job}", lambda a: a.json["stage"] == "success").json
        assert done["registration_rate"] == 1.0
    finally:
        server.kill()


FULL = """
import resource, sys
from mataserver import MataError
from mataserver_jobs.kinds import Assignment, Job
from mataserver_reconstruct import kind

folder, limit, spec = sys.argv[1], int(sys.argv[2]), {"max_size": 640, "max_keypoints": 512}
stages = []
job = Job(Assignment("a" * 36, "", spec, folder, 1), spec, lambda told: stages.append(told.stage))
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
try:
    kind.reconstruct(job)
except MataError as error:
    print(stages[-1], error.status, error.detail)
"""


def bounded(folder, limit):
    """Run a job none of whose files may be larger; return how that ended, and what it told."""
    command = [sys.executable, "-c", FULL, folder, str(limit)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    return ran.returncode, ran.stdout


def test_a_full_disk(photographs, tmp_path):
    """A job that cannot write says so, or dies of it; once there is room it goes on and ends."""
    (tmp_path / "input").mkdir()
    (tmp_path / "input" / "photos.zip").write_bytes(photographs)
    told = "extracting 507 The disk is full; restart the job once there is room\n"
    assert bounded(tmp_path, 20_000) == (0, told)
    status, _ = bounded(tmp_path, 300_000)  # of COLMAP's database, which it ends for
    assert status != 0
    assert not (tmp_path / "output" / "result.json").exists()
    assert bounded(tmp_path, 100_000_000) == (0, "")
    assert (tmp_path / "output" / "result.json").exists()
