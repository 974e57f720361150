"""The log as JSON: every line of stderr is one object, whoever wrote it."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mataserver import logs

PROGRAM = """
import logging, sys, threading, warnings
from mataserver import logs
logs.configure("info", "json")
logging.getLogger("mataserver").info("ours")
own = logging.getLogger("library"); own.propagate = False
own.addHandler(logging.StreamHandler()); own.warning("a library's own handler")
warnings.warn("a warning")
print("printed\\nin two lines", file=sys.stderr)
sys.stderr.write("no "); sys.stderr.write("end of line yet"); sys.stderr.write("\\n")
thread = threading.Thread(target=lambda: 1 / 0); thread.start(); thread.join()
print('{"time": 1, "message": "of a worker"}', file=sys.stderr)
print("x" * 100_000, file=sys.stderr)
logging.getLogger("mataserver").error("%d", "no number")
raise SystemError("at the end")
"""


def run(program: str) -> list[str]:
    """Run a program; return the lines of its stderr."""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    return done.stderr.splitlines()


def test_whatever_is_printed_is_json():
    """Handlers of libraries, warnings, prints and what nobody caught are objects, one a line."""
    lines = run(PROGRAM.replace('logging.getLogger("mataserver").error("%d", "no number")\n', ""))
    entries = [json.loads(line) for line in lines]
    assert all({"time", "message"} <= set(each) for each in entries)
    said = [each["message"] for each in entries]
    assert said[:2] == ["ours", "a library's own handler"]
    assert "a warning" in said[2]
    expected = ["printed", "in two lines", "no end of line yet"]
    assert [each for each in said if each in expected] == expected
    assert "of a worker" in said
    assert [len(each) for each in said if each.startswith("xx")] == [8_192]
    traces = [each["traceback"] for each in entries if "traceback" in each]
    assert ["ZeroDivisionError" in traces[0], "at the end" in traces[1]] == [True, True]


def test_what_logging_says_of_itself_does_not_go_round():
    """A record that cannot be formatted is told on stderr once, and the program goes on."""
    lines = run(PROGRAM)
    assert any("no number" in line for line in lines)
    assert json.loads(lines[-1])["message"] == "nobody caught this"


WORKER = """
import asyncio, os, sys
from mataserver import logs
from mataserver.engines.work import Placement
from mataserver.engines.zygote_handle import ZygoteHandle

async def main():
    logs.configure("info", "json")
    zygote = ZygoteHandle(Placement("loud", preload=("loud",)), "info", "json")
    zygote.start()
    await asyncio.shield(zygote._ready)
    await asyncio.sleep(0.2)
    await zygote.close()

asyncio.run(main())
"""
LOUD = """
import os, sys
os.write(1, b"native stdout\\n"); os.write(2, b"native stderr \\xff\\n")
print("python"); print("python err", file=sys.stderr); sys.stdout.flush()
raise RuntimeError("not importable")
"""
PATIENT = """
import pathlib, time
for number in range(1, 41):
    print(number, flush=True)
    time.sleep(0.005)
pathlib.Path({seen!r}).write_text(str(number))
"""


def test_what_a_worker_prints_is_json(tmp_path):
    """Lines of native libraries in a worker's process become the server's, its own log passes."""
    (tmp_path / "loud.py").write_text(LOUD)
    done = subprocess.run(
        [sys.executable, "-c", WORKER],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )
    entries = [json.loads(line) for line in done.stderr.splitlines()]
    said = [each["message"] for each in entries]
    assert {"native stdout", "native stderr \ufffd", "python", "python err"} <= set(said)
    own = next(each for each in entries if each["message"] == "could not preload loud")
    assert own["logger"] == "mataserver.zygote"
    assert "not importable" in own["traceback"]


@pytest.mark.parametrize("form", ["text", "json"])
def test_whoever_prints_does_not_fail_where_the_log_takes_nothing(tmp_path, form):
    """The disk of the log is full: what a worker prints is lost, and printing goes on."""
    (tmp_path / "loud.py").write_text(PATIENT.format(seen=str(tmp_path / "seen")))
    script = WORKER.replace('"json"', f'"{form}"')
    assert script != WORKER or form == "json"
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-c", script],
            stderr=full,
            check=False,
            env={**os.environ, "PYTHONPATH": str(tmp_path)},
        )
    assert done.returncode == 0
    assert (tmp_path / "seen").read_text() == "40"


def test_foreign_text_is_no_entry_of_its_own():
    """Neither a message nor an error can forge a line of the log, or obey a terminal."""
    forged = (
        "no\n2026-11-30 09:00:00,000 INFO    mataserver: all is well\x1b[2K\u2028\x9b1m\r\u202e"
    )
    try:
        int(forged + "x")
    except ValueError as error:
        error.add_note(forged)
        record = logging.LogRecord("x", 40, "", 1, "a Triton: %s", (forged,), sys.exc_info())
    first, *lines = logs.TextFormatter(logs.TEXT).format(record).split("\n")
    assert first.endswith("ERROR   x: a Triton: no")
    assert "    2026-11-30 09:00:00,000 INFO    mataserver: all is well [2K" in lines
    assert "    Traceback (most recent call last):" in lines
    assert all(each.startswith("    ") and each.isprintable() for each in lines)


@pytest.mark.parametrize("formatter", [logs.TextFormatter(logs.TEXT), logs.JsonFormatter()])
def test_an_error_with_a_whole_body_in_its_text_is_shortened(formatter):
    """Its beginning and its end are logged, of the message as of the traceback."""
    error = ValueError("begins" + 3_000_000 * "x" + "ends")
    info = (ValueError, error, None)
    record = logging.LogRecord("lab", logging.ERROR, "", 0, "says %s", (error,), info)
    line = formatter.format(record)
    assert len(line) < 3 * logs.MAX_ENTRY
    assert "ValueError: begins" in line
    assert line.count("begins") == line.count("ends") == line.count("are left out") == 2


STRANGER = """
import asyncio, sys
import aiohttp
from mataserver import logs, testing

async def main():
    async with testing.serving(sys.argv[1]) as served, aiohttp.ClientSession(served.url) as http:
        async with http.ws_connect("/v1/stream/none", protocols=["foreign" * 1000]) as socket:
            assert (await socket.receive()).data == 4001

logs.configure("info", "text")
asyncio.run(main())
"""


def test_what_a_stranger_offers_is_not_logged(tmp_path):
    """A WebSocket without a key that offers protocols writes nothing into the log."""
    command = [sys.executable, "-c", STRANGER, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, "foreign" in done.stderr) == (0, False), done.stderr[-2000:]
