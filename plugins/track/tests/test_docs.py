"""docs/tracking.md and the README say what is so, and the example of the page runs."""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
import time
from pathlib import Path

import msgspec
import pytest
import yaml

from mataserver import testing
from mataserver_track.options import Settings, TrackParams

PLUGIN = Path(__file__).parents[1]
PAGE = (PLUGIN.parents[1] / "docs" / "tracking.md").read_text()
CODES = PLUGIN.parents[1] / "examples" / "pictures" / "codes.jpg"
DEFAULTS = msgspec.to_builtins(Settings())


def rows(heading):
    """The first two cells of a table of the page, without code marks."""
    section = re.split(r"^## ", PAGE, flags=re.MULTILINE)
    [text] = [each for each in section if each.startswith(heading)]
    cells = [line.split("|")[1:3] for line in text.splitlines() if line.startswith("| `")]
    return {name.strip(" `"): value.strip() for name, value in cells}


def test_every_setting_is_described_with_its_default():
    """The page's table and the README's YAML hold every setting, in order, with its default."""
    assert {name: yaml.safe_load(value) for name, value in rows("Settings").items()} == DEFAULTS
    block = re.search(r"```yaml\n(.*?)```", (PLUGIN / "README.md").read_text(), re.DOTALL)
    assert yaml.safe_load(block[1]) == {"plugins": {"track": DEFAULTS}}


def test_every_parameter_is_described():
    """The page's table names the parameters of ``TrackParams``."""
    assert set(rows("Parameters")) == set(TrackParams.__struct_fields__)


@pytest.fixture
async def served(tmp_path):
    """A server with the QR detector, and a folder of frames beside it."""
    entry = {"task": "detect", "source": "pip", "pulled_at": time.time()}
    registry = {"version": 1, "models": {"opencv-qr": entry}}
    (tmp_path / "model_registry.json").write_text(json.dumps(registry))
    (tmp_path / "frames").mkdir()
    for number in range(3):
        (tmp_path / "frames" / f"{number}.jpg").write_bytes(CODES.read_bytes())
    points = testing.installed("track", "opencv")
    async with testing.serving(tmp_path, entry_points=points, engine="thread") as running:
        yield running


async def test_the_pages_example_runs(served, tmp_path):
    """The Python of the page, as it stands, prints the codes of every frame but the first."""
    code = re.search(r"```python\n(.*?)```", PAGE, re.DOTALL)[1]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", code),
        cwd=tmp_path,
        env={**os.environ, "MATA_SERVER_URL": served.url, "MATA_SERVER_API_KEY": served.key},
        stdout=asyncio.subprocess.PIPE,
    )
    printed, _ = await process.communicate()
    lines = printed.decode().splitlines()
    assert process.returncode == 0
    assert len(lines) == 6
    for number in (1, 2):
        ids = {re.fullmatch(rf"frame {number}: object (\d) is .+", each) for each in lines}
        assert {each[1] for each in ids if each} == {"1", "2", "3"}
    assert re.search(r"object \d is PALLET-0042", lines[0] + lines[1] + lines[2])
