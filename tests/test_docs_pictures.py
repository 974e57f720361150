"""The pictures and answers of docs/models.md: made by a script that runs, kept as it makes them."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from markdown_pages import DOCS, blocks, read, section
from mataserver.results import TASKS

IMAGES = DOCS / "img"
PAGE = read("models.md")
SPOKEN = {"timestamp", "session_id", "inference_ms"}
"""Fields that differ from run to run."""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """What the script makes now: the folder of its pictures, and its answers by task."""
    folder = tmp_path_factory.mktemp("pictures")
    command = [sys.executable, IMAGES / "make.py", folder]
    ran = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert ran.returncode == 0, ran.stderr
    answers = [json.loads(line) for line in ran.stdout.splitlines()]
    return folder, {answer["task"]: answer for answer in answers}


def close(shown, true):
    """Whether two decoded answers agree, numbers within what another version of a library does."""
    if isinstance(true, dict):
        return set(shown) == set(true) and all(close(shown[name], true[name]) for name in true)
    if isinstance(true, list):
        return len(shown) == len(true) and all(map(close, shown, true))
    if isinstance(true, float):
        return shown == pytest.approx(true, abs=3.0 if true > 1 else 0.05)
    return shown == true


@pytest.mark.parametrize("task", TASKS)
def test_answers_are_the_servers(made, task):
    """The answer that the page shows for a task is what a server answers, and to that request."""
    text = section(PAGE, task)
    (block,) = blocks(text, "json")
    shown = json.loads(block)
    assert close({k: v for k, v in shown.items() if k not in SPOKEN}, made[1][task])
    (request,) = blocks(text, "sh")
    assert re.search(rf'model(=|": "){re.escape(shown["model"])}\b', request)


@pytest.mark.parametrize("task", TASKS)
def test_pictures_are_what_the_script_makes(made, task):
    """The stored picture of a task is small, on the page, and what the script makes of it now."""
    stored = IMAGES / f"{task}.jpg"
    assert stored.stat().st_size < 60_000
    assert f"](img/{task}.jpg)" in section(PAGE, task)
    with Image.open(stored) as old, Image.open(made[0] / stored.name) as new:
        assert old.size == new.size
        difference = np.asarray(old, np.float32) - np.asarray(new, np.float32)
    assert abs(difference).mean() < 4  # the font, or the JPEG encoder, may be another one


def test_nothing_else_lies_there(made):
    """Every picture in the folder is one that the script makes, the benchmark's plot, or a page."""
    suffixes = {".jpg", ".png"}
    lying = {file.name for file in IMAGES.iterdir() if file.suffix in suffixes}
    kept = {name for name in lying if not name.startswith("console-")}
    pages = (IMAGES.parent / "console.md").read_text()
    assert [name for name in sorted(lying - kept) if f"](img/{name})" not in pages] == []
    assert {file.name for file in made[0].iterdir()} == {f"{t}.jpg" for t in TASKS} | {"scene.png"}
    assert kept == {file.name for file in made[0].iterdir()} | {"bench.png"}
    assert "](img/bench.png)" in (IMAGES.parent / "performance.md").read_text()


@pytest.mark.parametrize("task", sorted(set(TASKS) - {"detect", "ocr", "track", "embed"}))
def test_planted_answers_are_called_that(task):
    """Below a picture that no real model made, the page says so."""
    caption = section(PAGE, task).rpartition(f"](img/{task}.jpg)")[2]
    assert "planted model" in caption
