"""The command, as a person runs it."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest
from apart import stand_still, until_asked_to_end
from PIL import Image

pytestmark = [pytest.mark.timeout(600), pytest.mark.long]
COMMAND = [sys.executable, "-m", "mataserver", "reconstruct"]
SMALL = ["--max-size", 640, "--max-keypoints", 1024]


def ran(*arguments, cwd=None):
    """Return how the command ends."""
    return subprocess.run(
        [*COMMAND, *map(str, arguments)], capture_output=True, text=True, check=False, cwd=cwd
    )


def blank():
    """Return a picture of nothing."""
    out = io.BytesIO()
    Image.new("RGB", (320, 240), (200, 200, 200)).save(out, "PNG")
    return out.getvalue()


def test_photographs_become_files(orbit, tmp_path):
    """Photographs that are named one by one become a cloud, poses and a report."""
    photos = sorted(orbit[0].iterdir())[:12]
    done = ran(*photos, "-o", tmp_path / "out", *SMALL, "--dataset", "mine")
    assert done.returncode == 0, done.stderr
    assert "of 12 photographs have a place" in done.stdout
    assert str(tmp_path / "out" / "report.html") in done.stdout
    assert " 30 %  " in done.stderr or " 31 %  " in done.stderr
    assert "\nmine,cluster0,a_000.jpg," in (tmp_path / "out" / "submission.csv").read_text()
    assert len(list((tmp_path / "out").glob("*.ply"))) == 1


def test_places_of_every_sort(tmp_path):
    """The folder one is in, hidden ones, two of one name, one within another: each file once."""
    for name in ("here", ".hidden", "x/day", "y/day"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "a.png").write_bytes(blank())
    places = [".", "../.hidden", "../x/day", "../y/day", "../x/day/.."]
    done = ran(*places, "-o", tmp_path / "out", cwd=tmp_path / "here")
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    assert {image["path"] for image in result["images"]} == {
        "here/a.png", "2-.hidden/a.png", "day/a.png", "4-day/a.png",
    }  # fmt: skip


def test_links_keep_the_names_that_they_have(tmp_path):
    """As git-annex stores files: a link has the name, its target's is that of its content."""
    for name in ("store/0deadbeef", "store/day", "b.png"):
        target = tmp_path / name
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(blank())
    (tmp_path / "front0.png").symlink_to(tmp_path / "store" / "0deadbeef")
    (tmp_path / "front1.png").symlink_to(tmp_path / "store" / "day")
    (tmp_path / "latest").symlink_to(tmp_path / "b.png")  # only the target's name tells the format
    places = ["front0.png", "front1.png", "latest"]
    done = ran(*places, "-o", tmp_path / "out", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    assert {image["path"] for image in result["images"]} == {"front0.png", "front1.png", "b.png"}


@pytest.mark.parametrize(
    ("arguments", "code", "why"),
    [
        (["nowhere"], 1, "error: there is no nowhere"),
        (["--matcher", "loftr", "."], 1, "its weights are not on this machine"),
        (["--max-size", "3", "."], 1, "max_size"),
        (["--scale", "3 m", "."], 1, "scale: expected none, gps, or a length"),
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
    assert (done.returncode, "it contains no photographs" in done.stderr) == (1, True)


@pytest.mark.parametrize(
    ("number", "everybody", "status"),
    [
        (signal.SIGINT, True, 130),
        (signal.SIGTERM, False, 143),
        (signal.SIGHUP, True, 129),
        (signal.SIGKILL, False, -9),
    ],
)
def test_a_signal_leaves_no_process(number, everybody, status, orbit, tmp_path):
    """Ctrl-C, a kill and a closed terminal end the command and its process, without a trace."""
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
        (os.killpg if everybody else os.kill)(process.pid, number)
        assert process.wait(timeout=120) == status
        said = process.stderr.read()  # until its process has ended, too
    assert "Traceback" not in said
    assert ("the same command goes on with it" in said) == (number != signal.SIGKILL)
    until_gone(process.pid)


def test_a_second_signal_cuts_nothing_short(orbit, tmp_path):
    """As of ``timeout``, which signals a process and its group: the first one's end is awaited."""
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
        (child,) = psutil.Process(process.pid).children()
        stand_still(child)
        process.terminate()
        until_asked_to_end(child)
        process.terminate()
        process.send_signal(signal.SIGHUP)
        child.resume()
        assert process.wait(timeout=120) == 143
        said = process.stderr.read()
    assert "the same command goes on with it" in said
    until_gone(process.pid)


def test_one_command_writes_to_a_folder(orbit, tmp_path):
    """A second one is refused; one after a kill -9 waits for the process that was left."""
    again = [orbit[0], "-o", tmp_path / "out", *SMALL]
    first = subprocess.Popen(
        [*COMMAND, *map(str, again)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    with first:
        for line in first.stderr:
            if "features of" in line:
                break
        os.killpg(first.pid, signal.SIGSTOP)
        second = ran(*again)
        os.kill(first.pid, signal.SIGKILL)
        os.killpg(first.pid, signal.SIGCONT)
        third = ran(*again)
    assert second.returncode == 1
    assert f"another command writes to {tmp_path / 'out'}: " in second.stderr
    assert (third.returncode, "died" in third.stderr) == (0, False), third.stderr


def until_gone(group):
    """Wait until nothing of a process group runs; who is orphaned may stay a zombie."""
    end = time.monotonic() + 60
    while [each for each in psutil.process_iter() if runs_in(each, group)]:
        assert time.monotonic() < end, "a process is left"
        time.sleep(0.1)


def runs_in(process, group):
    """Whether a process of a group runs."""
    try:
        return os.getpgid(process.pid) == group and process.status() != psutil.STATUS_ZOMBIE
    except (ProcessLookupError, psutil.NoSuchProcess):
        return False
