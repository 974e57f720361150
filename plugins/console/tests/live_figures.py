"""Measures the page Live: what it keeps of the camera's rate, and how true its age figure is.

``python plugins/console/tests/live_figures.py`` from the root; it needs Chromium and the plugin
opencv. The camera is Chromium's own of 640 x 480 at 30 frames a second; for the age it is a clock.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[3]
sys.path[:0] = [str(ROOT / "tests"), str(Path(__file__).parent)]

import planted_clock  # noqa: E402 - from beside this file
import test_live_age  # noqa: E402
from console_pages import served, shown  # noqa: E402

SECONDS = 30
NAMES = ("Camera", "Results", "p50", "p95", "Dropped", "Age")
FIGURES = f"""{json.dumps(NAMES)}.map((name) =>
  document.querySelector(`[data-figure=${{name}}] dd`).innerText)"""
RATE = "--use-fake-device-for-media-stream=fps=30"


async def rate() -> None:
    """Print the page's own figures with ``opencv-qr``, its first seconds apart."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        known = {"opencv-qr": "detect"}
        async with (
            served(folder, "opencv", registered=known, engine="process") as server,
            shown(server.url, folder, flags=[RATE]) as person,
        ):
            await person.go("live?model=opencv-qr")
            await person.click("Start")
            await person.until(test_live_age.LIVE)
            await asyncio.sleep(SECONDS)
            for told, value in zip(NAMES, await person.evaluate(FIGURES), strict=True):
                print(told, value)  # noqa: T201


async def age() -> None:
    """Print how far the age that is told is off, in milliseconds."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        points, known = [planted_clock.POINT], planted_clock.TASKS
        async with (
            served(folder, points=points, registered=known) as server,
            shown(server.url, folder) as person,
        ):
            await person.evaluate(planted_clock.CAMERA)
            await person.go("live?model=clock")
            await person.click("Start")
            await person.until(test_live_age.LIVE)
            await person.evaluate(test_live_age.WATCH)
            await person.until("window.ages.length >= 100")
            off = [told - old for told, old in await person.evaluate("window.ages")]
    worst = max(off, key=abs)
    print(f"age: {statistics.median(off):.0f} ms off in the middle, {worst:.0f} at worst, of 100")  # noqa: T201


async def main() -> None:
    """Measure both."""
    await rate()
    await age()
    print(f"load average {os.getloadavg()[0]:.1f}")  # noqa: T201


if __name__ == "__main__":
    asyncio.run(main())
