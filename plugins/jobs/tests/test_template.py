"""templates/jobs, as somebody uses it: copied, renamed, installed with pip, and served."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]
TEMPLATE = ROOT / "templates" / "jobs"


def ran(*command, **variables):
    """Run a program; return what it printed."""
    done = subprocess.run(
        [sys.executable, "-m", *map(str, command)],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def renamed(folder, old, new):
    """Put a name in another's place, in the files below a folder and in their names."""
    for path in [each for each in folder.rglob("*") if each.is_file()]:
        text = path.read_text().replace(old, new).replace(old.title(), new.title())
        path.unlink()
        (path.parent / path.name.replace(old, new)).write_text(text)


def test_the_template_is_a_plugin(tmp_path):
    """Its own tests, which run a server with it, pass under another name."""
    copy, site = tmp_path / "copy", tmp_path / "site"
    shutil.copytree(TEMPLATE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    renamed(copy, "count", "tally")
    assert (copy / "mataserver_tally.py").exists()
    ran("pip", "install", "--quiet", "--no-deps", "--target", site, copy)
    asked = ("pytest", "-q", "-p", "no:cacheprovider", "--rootdir", copy, copy / "tests")
    assert "2 passed" in ran(*asked, PYTHONPATH=str(site))
    listed = ran("mataserver", "plugins", PYTHONPATH=str(site), MATA_SERVER_DATA_DIR=str(tmp_path))
    assert re.search(r"\btally\b", listed)


def test_the_docs_show_it():
    """The example of the page is the template as it is."""
    code = (TEMPLATE / "mataserver_count.py").read_text()
    assert f"```python\n{code}```" in (ROOT / "docs" / "jobs.md").read_text()
