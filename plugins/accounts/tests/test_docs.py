"""docs/accounts.md against the routes and the settings."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import msgspec

from mataserver_accounts.options import Settings

PAGE = (Path(__file__).parents[3] / "docs" / "accounts.md").read_text()


async def test_routes(serve):
    """Every route has a heading and tells its statuses, and every such heading is a route."""
    async with serve() as client:
        _, document = await client.ask("GET", "/openapi.json")
    actual = {
        f"{method.upper()} {path}": (
            {s for s in operation["responses"] if s >= "400"},
            {"400", *(("401", "403", "429") if operation["security"] else ())},
        )
        for path, operations in document["paths"].items()
        for method, operation in operations.items()
        if operation["tags"] == ["accounts"]
    }
    parts = re.split(r"^### `([A-Z]+ /[^`]*)`$", PAGE, flags=re.MULTILINE)[1:]
    told = {
        name: set(re.findall(r"\d{3}", re.search(r"^Errors: (.*)$", text, re.MULTILINE)[1]))
        for name, text in zip(parts[::2], parts[1::2], strict=True)
    }
    assert set(told) == set(actual)
    for name, (statuses, of_every_route) in actual.items():
        assert of_every_route <= statuses, name
        assert told[name] - of_every_route == statuses - of_every_route, name


def test_settings():
    """Every setting has a line."""
    described = re.findall(r"^\| `(\w+)` \| `[A-Z_]+` \|", PAGE, re.MULTILINE)
    assert described == [field.name for field in msgspec.structs.fields(Settings)]


def test_the_benchmark_runs():
    """What docs/accounts.md takes its figures from still asks a snapshot as it is made."""
    script = Path(__file__).parents[3] / "bench" / "authenticate.py"
    command = [sys.executable, script, "--keys", "1000"]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stderr) == (0, "")
    rows = re.findall(r"^(\S+(?: key)?) +[\d.]+ µs, median +[\d.]+ µs", ran.stdout, re.MULTILINE)
    assert rows == ["any key", "busy key", "token", "another's"]
