"""What Lighthouse says of the console's pages, on a computer and on a phone.

Run as ``python bench/lighthouse.py``, or ``make bench-console``: it starts a server with the
embedded default, opens each page with a key, and prints the scores, 0 to 100, and how much the
first load is as it is sent. It fails below ``LEAST``. Lighthouse comes from npm, Chromium from the
system; on a phone Lighthouse makes up a slow network and a processor of a quarter's speed.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

from contestants import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

VERSION = "12.8.2"
TOOLS = Path(__file__).resolve().parents[1] / "build" / "lighthouse"
PAGES = ("try", "compare", "ask", "live", "jobs", "models", "server")
FORMS = {"computer": ["--preset=desktop"], "phone": []}
SCORES = ("performance", "accessibility", "best-practices")
LEAST = 95
MOST_KB = 300
"""How much the first load may be, in kB as they are sent."""
KEY = "lighthouse-key"


def lighthouse() -> str:
    """Return the program, after installing it where it is missing."""
    program = TOOLS / "node_modules" / ".bin" / "lighthouse"
    if not program.exists():
        TOOLS.mkdir(parents=True, exist_ok=True)
        install = ["npm", "install", "--silent", "--prefix", str(TOOLS), f"lighthouse@{VERSION}"]
        subprocess.run(install, check=True)
    return str(program)


@contextlib.contextmanager
def served() -> Iterator[str]:
    """Yield the address of a server that has nothing but what it makes at its first start."""
    with tempfile.TemporaryDirectory() as folder:
        url = f"http://127.0.0.1:{free_port()}"
        given = {"DATA_DIR": folder, "PORT": url.rpartition(":")[2], "API_KEY": KEY}
        there = os.environ | {f"MATA_SERVER_{name}": value for name, value in given.items()}
        program = [sys.executable, "-m", "mataserver", "serve"]
        with Path(folder, "log").open("wb") as log:
            process = subprocess.Popen(program, cwd=folder, env=there, stdout=log, stderr=log)
        try:
            wait(url, process)
            yield url
        finally:
            process.terminate()
            process.wait()


def wait(url: str, process: subprocess.Popen[bytes]) -> None:
    """Wait until the server answers. Raises ``RuntimeError`` when it has ended."""
    while True:
        with contextlib.suppress(OSError), urllib.request.urlopen(f"{url}/health") as answer:
            answer.read()
            return
        if process.poll() is not None:
            raise RuntimeError("the server ended")
        time.sleep(0.05)


def judged(program: str, url: str, flags: list[str]) -> dict[str, Any]:
    """Return the report about a page, which is opened with the key."""
    headers = json.dumps({"Authorization": f"Bearer {KEY}"})
    options = [
        f"--only-categories={','.join(SCORES)}",
        f"--extra-headers={headers}",
        "--chrome-flags=--headless=new --no-sandbox",
        "--output=json",
        "--quiet",
    ]
    chromium = shutil.which("chromium") or shutil.which("google-chrome") or ""
    there = os.environ | {"CHROME_PATH": chromium}
    told = subprocess.run([program, url, *options, *flags], check=True, env=there, stdout=-1)
    report: dict[str, Any] = json.loads(told.stdout)
    return report


def row(report: dict[str, Any]) -> tuple[list[int], float]:
    """Return the scores of a report, and what was sent in kB."""
    scores = [round(100 * report["categories"][name]["score"]) for name in SCORES]
    return scores, report["audits"]["total-byte-weight"]["numericValue"] / 1000


def main() -> None:
    """Print the table; exit with 1 where a page misses a bar."""
    program, missed = lighthouse(), False
    print("| page | on a | " + " | ".join(SCORES) + " | sent, kB |\n|---|---|---|---|---|---|")
    with served() as url:
        for page in PAGES:
            for form, flags in FORMS.items():
                scores, sent = row(judged(program, f"{url}/#/{page}", flags))
                missed = missed or min(scores) < LEAST or sent > MOST_KB
                cells = [page, form, *map(str, scores), f"{sent:.0f}"]
                print(f"| {' | '.join(cells)} |", flush=True)
    print(f"\nLighthouse {VERSION}, load average {os.getloadavg()[0]:.1f}.")
    sys.exit(int(missed))


if __name__ == "__main__":
    main()
