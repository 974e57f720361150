"""The vendored libraries are those that were taken from their packages."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

CONSOLE = Path(__file__).parents[1]
VENDOR = Path("mataserver_console/web/vendor")


def checked(folder):
    """Return what the check, which asks npm for nothing, complains about."""
    made = subprocess.run(
        [sys.executable, folder / "vendor.py", "--recorded"],
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": ""},
    )
    return made.stderr.strip()


def test_the_libraries_are_as_they_were_taken(tmp_path):
    """A changed file, a missing one and one of no package are named; as they are none is."""
    assert checked(CONSOLE) == ""
    (tmp_path / "mataserver_console" / "web").mkdir(parents=True)
    (tmp_path / "tests").mkdir()
    shutil.copytree(CONSOLE / VENDOR, tmp_path / VENDOR)
    for name in ("vendor.py", "vendor.json", "tests/axe.min.js", "tests/LICENSE.axe-core"):
        shutil.copy(CONSOLE / name, tmp_path / name)
    assert checked(tmp_path) == ""
    with (tmp_path / VENDOR / "htm.mjs").open("a") as file:
        file.write(" ")
    (tmp_path / VENDOR / "LICENSE.preact").unlink()
    (tmp_path / VENDOR / "other.mjs").write_text("")
    said = "not as in their packages: "
    assert checked(tmp_path) == said + ", ".join(
        str(VENDOR / name) for name in ("LICENSE.preact", "htm.mjs", "other.mjs")
    )
