"""The folders of templates/, as somebody uses them: copied, renamed, installed and served."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.long

ROOT = Path(__file__).parents[1]
TEMPLATES = ROOT / "templates"

NAMES = {
    "backend": "spots",
    "jobs": "count",
    "protocol": "deepstack",
    "source": "share",
    "task": "exposure",
}
"""What is to be renamed in each, as its README says."""


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


def commands(readme):
    """Return the lines of the README that copy and rename."""
    block = readme.split("```sh\n")[1].split("```")[0]
    return [line for line in block.splitlines() if line.startswith(("cp ", "mv ", "sed "))]


@pytest.mark.parametrize("template", sorted(NAMES))
def test_a_template_is_a_plugin(template, tmp_path):
    """Renamed as its README says, its own tests pass, which run a server with it."""
    shutil.copytree(TEMPLATES, tmp_path / "templates", ignore=shutil.ignore_patterns("__pycache__"))
    lines = commands((TEMPLATES / template / "README.md").read_text())
    subprocess.run(["sh", "-ec", "\n".join(lines)], cwd=tmp_path, check=True)
    copy, site = tmp_path / "my-plugin", tmp_path / "site"
    [name] = [path.stem.removeprefix("mataserver_") for path in copy.glob("mataserver_*.py")]
    assert name != NAMES[template]
    code = "".join(path.read_text() for path in copy.rglob("*.py"))
    assert NAMES[template] not in code.casefold()
    ran("pip", "install", "--quiet", "--no-deps", "--target", site, copy)
    asked = ("pytest", "-q", "-p", "no:cacheprovider", "--rootdir", copy, copy / "tests")
    assert re.search(r"^\d+ passed", ran(*asked, PYTHONPATH=str(site)), re.MULTILINE)
    listed = ran("mataserver", "plugins", PYTHONPATH=str(site), MATA_SERVER_DATA_DIR=str(tmp_path))
    assert re.search(rf"\b{name}\b", listed)


@pytest.mark.parametrize(
    ("template", "module", "page", "heading"),
    [
        ("backend", "mataserver_spots.py", "plugin-backends.md", "# mataserver_spots.py\n"),
        ("jobs", "mataserver_count.py", "jobs.md", ""),
        ("source", "mataserver_share.py", "plugin-sources.md", ""),
        ("task", "mataserver_exposure.py", "plugin-tasks.md", "# mataserver_exposure.py\n"),
    ],
)
def test_the_docs_show_it(template, module, page, heading):
    """The example of the page is the template as it is."""
    code = (TEMPLATES / template / module).read_text()
    assert f"```python\n{heading}{code}```" in (ROOT / "docs" / page).read_text()
