"""Measures Segment: what a click on a picture whose features are kept costs beyond the model.

``python plugins/console/tests/click_figures.py`` from the root; it needs Chromium and the plugin
sam. The model is a SAM3 with random weights and few of them, which takes the same way as a large
one; its masks are noise, which has far longer outlines than what a trained one finds. A time is
from the button's coming up to the outline of the new mask in the page. Its parts are the page's
before it asks, the server's beyond the model, the way there and back, and the page's with the
answer; what comes after, until the browser has drawn it, is told beside them.
"""

from __future__ import annotations

import asyncio
import io
import os
import statistics
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).parents[3]
OTHERS = (ROOT / "tests", Path(__file__).parent, ROOT / "plugins" / "sam" / "tests")
sys.path[:0] = [str(each) for each in OTHERS]

import tiny  # noqa: E402 - from beside the plugin
from console_pages import served, shown  # noqa: E402

CLICKS = 30
WATCH = """(() => {
  window.clicks = [];
  performance.setResourceTimingBufferSize(2000);
  let now = null;
  const count = () => document.querySelectorAll(".over .mask").length;
  const after = (then) => requestAnimationFrame(() => {
    const later = new MessageChannel();
    later.port1.onmessage = then;
    later.port2.postMessage(0);
  });
  addEventListener("pointerup", () => { now = { up: performance.now(), before: count() }; }, true);
  const plain = window.fetch;
  window.fetch = async (...asked) => {
    if (!String(asked[0]).endsWith("image/segment")) return plain(...asked);
    const own = now;
    own.asked = performance.now();
    const answer = await plain(...asked);
    own.answered = performance.now();
    const spent = /total;dur=([\\d.]+)/.exec(answer.headers.get("Server-Timing"));
    own.server = Number(spent[1]);
    answer.clone().json().then((said) => { own.model = said.inference_time_ms; });
    return answer;
  };
  new MutationObserver(() => {
    const own = now;
    if (!own || own.shown || count() <= own.before) return;
    own.shown = performance.now();
    after(() => { own.drawn = performance.now(); window.clicks.push(own); });
  }).observe(document.querySelector(".clicks"), { subtree: true, childList: true });
})()"""
IDLE = """new Promise((idle) => requestAnimationFrame(() => requestAnimationFrame(
  () => requestIdleCallback(idle)))).then(() => 0)"""
"""Somebody who has pressed a button needs longer to point than the page to draw what it did."""
PARTS = {
    "beyond the model": lambda each: each["shown"] - each["up"] - each["model"],
    "page before": lambda each: each["asked"] - each["up"],
    "server": lambda each: each["server"] - each["model"],
    "way": lambda each: each["answered"] - each["asked"] - each["server"],
    "page after": lambda each: each["shown"] - each["answered"],
    "then drawn": lambda each: each["drawn"] - each["shown"],
}


def photograph() -> bytes:
    """Return a JPEG of 1920x1080, shapes under noise."""
    chance = np.random.default_rng(3)
    coarse = Image.fromarray(chance.integers(0, 255, (9, 16, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((1920, 1080), Image.Resampling.BICUBIC))
    noisy = np.clip(smooth + chance.normal(0, 6, smooth.shape), 0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noisy).save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


async def clicks(folder: Path, data: bytes) -> list[dict[str, float]]:
    """Return the times of each click but the first, in order."""
    tiny.sam3(folder / "sam3")
    given = {"plugins": {"sam": {"model": str(folder / "sam3")}}, "engine": "process"}
    async with (
        served(folder, "sam", **given) as server,
        shown(server.url, folder, seconds=400) as person,
    ):
        await person.go("segment")
        await person.give(data, "photograph.jpg")
        await person.point(".clicks", 0.5, 0.5)
        await person.until("!!document.querySelector('.over .mask')")
        await person.evaluate(WATCH)
        for number in range(CLICKS):
            await person.click("New object")
            await person.evaluate(IDLE)
            await person.point(".clicks", 0.1 + 0.027 * number, 0.15 + 0.023 * number)
            await person.until(f"window.clicks.length > {number}")
        made: list[dict[str, float]] = await person.evaluate("window.clicks")
        return made


async def main() -> None:
    """Measure a small picture and a large one."""
    astronaut = (ROOT / "examples" / "pictures" / "astronaut.jpg").read_bytes()
    for name, data in (("astronaut.jpg", astronaut), ("1920x1080", photograph())):
        with tempfile.TemporaryDirectory() as folder:
            spent = await clicks(Path(folder), data)
        print(f"{name}, {len(data) // 1000} kB, milliseconds: median, quickest, slowest")  # noqa: T201
        for part, of in PARTS.items():
            all_ = sorted(map(of, spent))
            middle = statistics.median(all_)
            print(f"  {part:18}{middle:6.1f}{all_[0]:8.1f}{all_[-1]:8.1f}")  # noqa: T201
    print(f"load average {os.getloadavg()[0]:.1f}")  # noqa: T201


if __name__ == "__main__":
    asyncio.run(main())
