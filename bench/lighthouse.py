"""What Lighthouse says of the console's pages, on a computer and on a phone.

Run as ``python bench/lighthouse.py``, or ``make bench-console``: it starts a server with the
embedded default and all plugins that are installed, opens each page with a key, and prints the
scores, 0 to 100, and how much the first load is as it is sent. It fails below ``LEAST``. Lighthouse
comes from npm, Chromium from the system; on a phone Lighthouse makes up a slow network and a
processor of a quarter's speed. Names of pages, such as ``segment fleet``, open these alone.

A cloud is that of the console's tests, on a server of its own in this process.
"""

from __future__ import annotations

import asyncio
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

import aiohttp

from contestants import free_port
from mataserver.testing import installed, serving

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

VERSION = "12.8.2"
ROOT = Path(__file__).resolve().parents[1]
TOOLS = ROOT / "build" / "lighthouse"
PLANTED = ROOT / "plugins" / "console" / "tests"
SIGN_IN, CLOUD = "sign-in", "cloud"
PAGES = (
    SIGN_IN, "try", "compare", "ask", "segment", "live", "jobs", CLOUD, "models", "fleet", "server",
)  # fmt: skip
FORMS = {"computer": ["--preset=desktop"], "phone": []}
SCORES = ("performance", "accessibility", "best-practices")
LEAST = 95
MOST_KB = 300
"""How much the first load may be, in kB as they are sent; a cloud's viewer comes on top of it."""
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


@contextlib.asynccontextmanager
async def before_a_cloud() -> AsyncIterator[str]:
    """Yield the address of a page that shows a cloud, on a server of its own."""
    sys.path.append(str(PLANTED))
    os.environ["PYTHONPATH"] = str(PLANTED)  # the job's process finds the stand-in there
    import planted_cloud

    headers = {"Authorization": f"Bearer {KEY}"}
    points = [*installed("console", "database", "jobs"), planted_cloud.POINT]
    with tempfile.TemporaryDirectory() as folder:
        async with (
            serving(Path(folder), entry_points=points, api_keys=[KEY]) as server,
            aiohttp.ClientSession(server.url, headers=headers) as http,
        ):
            async with http.post("/upload") as answer:
                job = (await answer.json())["job_id"]
            while True:
                async with http.get(f"/v1/jobs/{job}") as answer:
                    state = (await answer.json())["state"]
                if state in {"done", "failed"}:
                    break
                await asyncio.sleep(0.1)
            if state == "failed":
                raise RuntimeError("the job failed")
            yield f"{server.url}/#/jobs?id={job}"


def judged(program: str, url: str, flags: list[str], key: str) -> dict[str, Any]:
    """Return the report about a page, which is opened with a key if there is one."""
    headers = json.dumps({"Authorization": f"Bearer {key}"} if key else {})
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


async def judge(program: str, page: str, address: str) -> bool:
    """Print the rows of a page; return whether it misses a bar."""
    missed = False
    for form, flags in FORMS.items():
        key = "" if page == SIGN_IN else KEY
        report = await asyncio.to_thread(judged, program, address, flags, key)
        scores, sent = row(report)
        missed = missed or min(scores) < LEAST or (sent > MOST_KB and page != CLOUD)
        cells = [page, form, *map(str, scores), f"{sent:.0f}"]
        print(f"| {' | '.join(cells)} |", flush=True)
    return missed


async def main() -> None:
    """Print the table; exit with 1 where a page misses a bar."""
    program, missed = lighthouse(), False
    wanted = sys.argv[1:] or PAGES
    print("| page | on a | " + " | ".join(SCORES) + " | sent, kB |\n|---|---|---|---|---|---|")
    with served() as url:
        for page in wanted:
            if page == CLOUD:
                async with before_a_cloud() as address:
                    missed |= await judge(program, page, address)
            else:
                missed |= await judge(program, page, f"{url}/#/{page.replace(SIGN_IN, 'try')}")
    print(f"\nLighthouse {VERSION}, load average {os.getloadavg()[0]:.1f}.")
    sys.exit(int(missed))


if __name__ == "__main__":
    asyncio.run(main())
