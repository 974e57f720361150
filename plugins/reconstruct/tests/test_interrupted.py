"""Reconstructions that are killed, stopped or left alone, and what is gone on with."""

from __future__ import annotations

import signal

import numpy as np
import pytest
from test_reconstruct import QUICK, quick

from mataserver_reconstruct import imc, local_process, pipeline
from mataserver_reconstruct.local import JobStopped, LocalJob

pytestmark = [pytest.mark.timeout(900), pytest.mark.long]


@pytest.mark.parametrize(
    ("stage", "done"), [("extracting", 3), ("matching", 0.6), ("decimating", 0)]
)
def test_a_killed_reconstruction_goes_on(stage, done, strip, begin, tmp_path):
    """Killed at any stage, the next attempt goes on and ends well."""
    first = begin(strip, tmp_path / "out", **QUICK)
    first.until(stage, done)
    first.close()
    second = begin(strip, tmp_path / "out", **QUICK)
    end = second.end()
    assert end.how == "done", end.why
    assert end.figures["n_registered"] == 6
    features = [step for step in second.steps if "pairs" in step.message]
    if stage == "decimating":  # nothing is matched again
        assert not features


@pytest.mark.parametrize(("stage", "done"), [("extracting", 2), ("matching", 0.1)])
def test_a_reconstruction_is_stopped(stage, done, orbit, begin, tmp_path):
    """SIGTERM stops it between two steps; nothing is left running and no result is written."""
    process = begin(quick(orbit, tmp_path), tmp_path / "out", **QUICK)
    process.until(stage, done)
    process.process.send_signal(signal.SIGTERM)
    assert process.end() == local_process.EndMessage("stopped")
    assert not (tmp_path / "out" / "submission.csv").exists()


def test_it_is_stopped_before_every_pair_is_matched(orbit, begin, tmp_path):
    """The next attempt has pairs left: of many photographs they take minutes."""
    source = quick(orbit, tmp_path)
    process = begin(source, tmp_path / "out", **QUICK)
    for line in process.lines():
        if "matches of 0 of 66" in getattr(line, "message", ""):
            process.process.send_signal(signal.SIGTERM)
            break
    assert process.end() == local_process.EndMessage("stopped")
    again = begin(source, tmp_path / "out", **QUICK)
    assert again.end().how == "done"
    matched = [step.message for step in again.steps if "matches of" in step.message]
    assert matched
    assert not matched[0].startswith("matches of 66")


def test_a_stopped_mapping_leaves_its_part(orbit, begin, tmp_path):
    """Stopped while it maps, it leaves the model that it had reached."""
    process = begin(quick(orbit, tmp_path, 16), tmp_path / "out", max_size=800)
    process.until("triangulating", 0.3)
    process.process.send_signal(signal.SIGTERM)
    assert process.end() == local_process.EndMessage("stopped")
    text = (tmp_path / "out" / "result.json").read_text()
    assert '"partial": true' in text
    found = imc.read((tmp_path / "out" / "submission.csv").read_text())
    placed = [name for name, row in found.items() if np.isfinite(row.centre).all()]
    assert 3 <= len(placed) < 16
    assert "It was stopped" in (tmp_path / "out" / "report.html").read_text()


def test_stopped_after_the_last_photograph_it_leaves_all(orbit, tmp_path):
    """A stop between the mapping's last step and the next stage loses no model."""

    def progress(stage, done, _total, _message):
        if stage == "triangulating" and done >= 0.8:  # one of the five finds no place
            job.stop()

    source = quick(orbit, tmp_path, 5)
    job = LocalJob(tmp_path / "out", source, QUICK, progress)
    with pytest.raises(JobStopped):
        pipeline.run(job)
    assert '"partial": true' in (tmp_path / "out" / "result.json").read_text()
    found = imc.read((tmp_path / "out" / "submission.csv").read_text())
    assert sum(np.isfinite(row.centre).all() for row in found.values()) >= 4


def test_it_ends_with_whoever_waits(orbit, begin, tmp_path):
    """When the process that began it is gone, it stops by itself."""
    process = begin(quick(orbit, tmp_path), tmp_path / "out", **QUICK)
    process.until("matching", 0.1)
    process.process.stdin.close()
    assert process.process.wait(timeout=120) == 0
