"""The script that decides whether a change lands: what it prints, and when it fails."""

from __future__ import annotations

import os
import subprocess

import pytest

from fresh_environment import ROOT

MAKE = """#!/bin/sh
echo "made $1"
{0}
[ "$1" != test ] || echo "=== 7 passed in 1.00s ==="
"""


@pytest.fixture
def run(tmp_path):
    """Run the script with stand-ins of make and of what it would install; return what it did."""
    for name in ("apt-get", "sudo", "tesseract", "chromium", "npm"):
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)

    def run(special="", **variables):
        (tmp_path / "make").write_text(MAKE.format(special))
        (tmp_path / "make").chmod(0o755)
        path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
        return subprocess.run(
            [ROOT / ".ci" / "run"],
            env={**os.environ, "PATH": path, **variables},
            capture_output=True,
            text=True,
            check=False,
        )

    return run


def test_times_are_told_and_the_summary_is_last(run):
    """Each part has a line with its seconds; the last line is the test runner's."""
    done = run()
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    table = lines[lines.index("== what each part took, of 2400 s") + 1 : -1]
    names = [line.split()[2] for line in table]
    names.remove("check")  # which ends beside the next ones
    ordered = ["packages", "setup", "compile", "clients", "api", "tests"]
    ordered += ["engines", "fleet", "long", "all"]
    assert names == ordered
    assert all(line.split()[0].isdecimal() for line in table)
    assert lines[-1] == "=== 7 passed in 1.00s ==="


@pytest.mark.parametrize("target", ["check", "test-clients", "test"])
def test_a_part_that_fails_ends_it(run, target):
    """The status is a failure, nothing comes after the part, and the times are told."""
    done = run(f'[ "$1" != {target} ] || {{ echo "=== 1 failed ==="; exit 2; }}')
    assert done.returncode == 2
    made = [line for line in done.stdout.splitlines() if line.startswith("made ")]
    made.sort(key="made check".__eq__)  # it ends beside the next ones, and is told where they end
    assert (made if target == "check" else made[:-1])[-1] == f"made {target}"
    assert "made test" not in made or target == "test"
    assert "what each part took" in done.stdout
    if target == "test":
        assert done.stdout.splitlines()[-1] == "=== 1 failed ==="


def test_checks_that_fail_beside_another_part_are_told_too(run):
    """Both parts' words are there, and none is left behind."""
    done = run(
        '[ "$1" != check ] || { sleep 0.3; echo "the checks say"; exit 2; }\n'
        '[ "$1" != test-clients ] || { echo "=== 1 failed ==="; exit 3; }'
    )
    assert done.returncode == 3
    assert "the checks say" in done.stdout
    assert "made test-api" not in done.stdout


def test_the_whole_has_a_limit(run):
    """A part that runs into the limit of the whole is ended, and that is a failure."""
    done = run('[ "$1" != test-clients ] || exec sleep 60', CI_LIMIT_SECONDS="2")
    assert done.returncode == 124
    assert "clients was ended: all parts together may take 2 s" in done.stderr
    assert "made test-api" not in done.stdout


def test_what_failed_is_asked_once_more(run, tmp_path):
    """Up to five tests, counted by the summary's lines and not by what the tests have logged."""
    logged = "ERROR    some.module:file.py:1 said"
    lines = [*[logged] * 9, "FAILED tests/test_a.py::test_b - why", "=== 1 failed ==="]
    said = "\n".join(lines)
    done = run(f'[ "$1" != test ] || {{ echo "{said}"; exit 2; }}')
    assert done.returncode == 0, done.stderr
    assert "made test-again" in done.stdout
    assert "FAILED tests/test_a.py::test_b" in done.stdout.split("to be mended:")[1]
    many = "\n".join(f"FAILED tests/test_a.py::test_{at}" for at in range(6))
    done = run(f'[ "$1" != test ] || {{ echo "{many}"; exit 2; }}')
    assert done.returncode == 2
    assert "made test-again" not in done.stdout


def test_what_no_time_is_left_for_is_named(run):
    """The slowest parts are left out near the limit, and the table says how to run them."""
    done = run(CI_LIMIT_SECONDS="170")
    assert done.returncode == 0, done.stderr
    assert "made test-engines" in done.stdout
    assert "made test-fleet" not in done.stdout
    assert "- s  long was not run: make test-long" in done.stdout
    assert done.stdout.splitlines()[-1] == "=== 7 passed in 1.00s ==="
