"""The command, as a person runs it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

pytestmark = pytest.mark.timeout(600)

COMMAND = [sys.executable, "-m", "mataserver", "reconstruct"]


def ran(*arguments):
    """Return how the command ends."""
    return subprocess.run(
        [*COMMAND, *map(str, arguments)], capture_output=True, text=True, check=False
    )


def test_photographs_become_files(orbit, tmp_path):
    """Photographs that are named one by one become a cloud, poses and a report."""
    photos = sorted(orbit[0].iterdir())[:12]
    small = ["--max-size", 640, "--max-keypoints", 1024, "--dataset", "mine"]
    done = ran(*photos, "-o", tmp_path / "out", *small)
    assert done.returncode == 0, done.stderr
    assert "of 12 photographs have a place" in done.stdout
    assert str(tmp_path / "out" / "report.html") in done.stdout
    assert " 30 %  " in done.stderr or " 31 %  " in done.stderr
    assert "\nmine,cluster0,a_000.jpg," in (tmp_path / "out" / "submission.csv").read_text()
    assert len(list((tmp_path / "out").glob("*.ply"))) == 1


@pytest.mark.parametrize(
    ("arguments", "code", "why"),
    [
        (["nowhere"], 1, "error: there is no nowhere"),
        (["--matcher", "loftr", "."], 1, "its weights are not on this machine"),
        (["--max-size", "3", "."], 1, "max_size"),
        ([], 2, "PHOTOS"),
    ],
)
def test_wrong_use_is_one_line(arguments, code, why, tmp_path):
    """What cannot be done is told in a line and ends with a status of failure."""
    done = ran(*arguments, "-o", tmp_path / "out")
    assert done.returncode == code
    assert why in done.stderr
    assert "Traceback" not in done.stderr


def test_an_empty_folder_is_refused(tmp_path):
    """A folder without photographs is told as such."""
    (tmp_path / "in").mkdir()
    done = ran(tmp_path / "in", "-o", tmp_path / "out")
    assert (done.returncode, "there is no photograph in it" in done.stderr) == (1, True)


def test_ctrl_c_leaves_no_process(orbit, tmp_path):
    """Ctrl-C in a terminal ends the command and its process."""
    process = subprocess.Popen(
        [*COMMAND, str(orbit[0]), "-o", str(tmp_path / "out")],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    with process:
        for line in process.stderr:
            if "features of" in line:
                break
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(timeout=120) == 130
        end = time.monotonic() + 30
        while time.monotonic() < end:
            try:
                os.killpg(process.pid, 0)
            except ProcessLookupError:
                return
            time.sleep(0.1)
        pytest.fail("a process is left")
