"""Reads the pages of the documentation: tables, headings, sections, code blocks."""

from __future__ import annotations

import importlib.metadata
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(
    path
    for path in [
        *ROOT.glob("*.md"),
        *DOCS.glob("*.md"),
        *ROOT.glob("clients/*/README.md"),
        *ROOT.glob("plugins/*/README.md"),
        *ROOT.glob("templates/*/README.md"),
    ]
    if path.is_file()
)
AUTHORS = [DOCS / "plugins.md", *sorted(DOCS.glob("plugin-*.md"))]
"""The pages for authors of plugins, the index first."""
PLUGINS = sorted(
    {path.parent.name for path in ROOT.glob("plugins/*/pyproject.toml")}
    & {
        point.dist.name.removeprefix("mataserver-")
        for point in importlib.metadata.entry_points(group="mataserver")
        if point.dist is not None
    }
)
"""The distributions of plugins of this repository that are installed."""


def read(name):
    """Return a page of docs/."""
    return (DOCS / name).read_text()


def read_authors():
    """Return the pages for authors of plugins as one text."""
    return "\n".join(page.read_text() for page in AUTHORS)


def rows(text, first):
    """Return the rows of every table whose first column is headed ``first``, as lists of cells."""
    found, inside = [], False
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if not line.startswith("|"):
            inside = False
        elif cells[0] == first:
            inside = True
        elif inside and set(line) - set("|-: "):
            found.append(cells)
    return found


def quoted(cell):
    """Return the text between the first pair of backticks of a cell."""
    return re.search(r"`([^`]*)`", cell)[1]


def headings(text):
    """Return the headings of a page outside its code blocks, without their marks."""
    prose = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    return re.findall(r"^#+ (.*)$", prose, re.MULTILINE)


def section(text, heading):
    """Return what stands under a heading, up to the next one of its level or above."""
    marks = re.search(rf"^(#+) {re.escape(heading)}$", text, re.MULTILINE)
    body = text[marks.end() :]
    end = re.search(rf"^#{{1,{len(marks[1])}}} ", body, re.MULTILINE)
    return body[: end.start()] if end else body


def blocks(text, language):
    """Return the code blocks of a language."""
    pattern = rf"^```{language}\n(.*?)^```"
    return re.findall(pattern, text, re.DOTALL | re.MULTILINE)
