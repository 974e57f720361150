"""Measures Segment: what a click on a picture whose features are kept costs beyond the model.

``python plugins/console/tests/click_figures.py`` from the root; it needs Chromium and the plugin
sam. The model is a SAM3 with random weights and few of them, which takes the same way as a large
one. A time is from the button's coming up to the outline of the new mask in the page.
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
  let begun = 0, shown = 0, model = 0, before = 0;
  const count = () => document.querySelectorAll(".over .mask").length;
  const told = () => {
    if (begun && shown && model) { window.clicks.push(shown - begun - model); begun = 0; }
  };
  addEventListener("pointerup", () => {
    [begun, shown, model, before] = [performance.now(), 0, 0, count()];
  }, true);
  const plain = window.fetch;
  window.fetch = async (...asked) => {
    const answer = await plain(...asked);
    if (String(asked[0]).endsWith("image/segment")) {
      answer.clone().json().then((said) => { model = said.inference_time_ms; told(); });
    }
    return answer;
  };
  const seen = () => { if (!shown && count() > before) shown = performance.now(); told(); };
  new MutationObserver(seen).observe(document.querySelector(".clicks"),
    { subtree: true, childList: true });
})()"""


def photograph() -> bytes:
    """Return a JPEG of 1920x1080, shapes under noise."""
    chance = np.random.default_rng(3)
    coarse = Image.fromarray(chance.integers(0, 255, (9, 16, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((1920, 1080), Image.Resampling.BICUBIC))
    noisy = np.clip(smooth + chance.normal(0, 6, smooth.shape), 0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noisy).save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


async def clicks(folder: Path, data: bytes) -> list[float]:
    """Return the milliseconds beyond the model of each click but the first, in order."""
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
            await person.point(".clicks", 0.1 + 0.027 * number, 0.15 + 0.023 * number)
            await person.until(f"window.clicks.length > {number}")
        return sorted(await person.evaluate("window.clicks"))


async def main() -> None:
    """Measure a small picture and a large one."""
    astronaut = (ROOT / "examples" / "pictures" / "astronaut.jpg").read_bytes()
    for name, data in (("astronaut.jpg", astronaut), ("1920x1080", photograph())):
        with tempfile.TemporaryDirectory() as folder:
            spent = await clicks(Path(folder), data)
        print(  # noqa: T201
            f"{name}, {len(data) // 1000} kB: median {statistics.median(spent):.0f} ms beyond the "
            f"model, quickest {spent[0]:.0f}, slowest {spent[-1]:.0f}"
        )
    print(f"load average {os.getloadavg()[0]:.1f}")  # noqa: T201


if __name__ == "__main__":
    asyncio.run(main())
