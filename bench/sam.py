"""SAM3 on images: what keeping features saves, and what the server adds to the model.

Run as ``python bench/sam.py``; it prints Markdown tables. ``python bench/sam.py large`` measures
the first of them with the architecture of ``facebook/sam3`` (840 million weights, images of 1008
pixels), which takes ten minutes on two cores and 10 GB of memory. The weights are random: that
changes what is found and not how long it takes. One process works at a time.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import io
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import msgspec
import numpy as np
from PIL import Image

from mataserver import decode_image
from mataserver.testing import installed, serving

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "plugins" / "sam" / "tests"))

import tiny  # noqa: E402 - the builders of the plugin's tests

if TYPE_CHECKING:
    from collections.abc import Callable

TEXTS = ["person", "car", "tree", "dog", "bicycle", "bench", "window", "sign", "bird", "bag"]
ROUNDS = int(os.environ.get("ROUNDS", "60"))
FULL = int(os.environ.get("FULL", "2"))
MASKS = 10
THREADS = int(os.environ.get("THREADS", "0"))
"""0 leaves the number of threads of a forward pass to torch."""
PATIENT: dict[str, Any] = {"infer_timeout": 7_200, "load_timeout": 7_200, "threads": THREADS}


def photo(seed: int, height: int = 1080, width: int = 1920) -> bytes:
    """Return a JPEG of smooth shapes under noise, as a camera's: 1080p by default."""
    chance = np.random.default_rng(seed)
    coarse = chance.integers(0, 255, (9, 16, 3), dtype=np.uint8)
    smooth = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))
    noisy = np.clip(smooth + chance.normal(0, 6, (height, width, 3)), 0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noisy).save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


def build(size: str, path: Path) -> None:
    """Write a checkpoint of a size."""
    if size == "tiny":
        tiny.sam3(path)
    else:
        tiny.sam3_large(path)


async def post(http: aiohttp.ClientSession, path: str, body: bytes) -> tuple[float, Any]:
    """Return milliseconds and the decoded answer of a POST of JSON."""
    begun = time.perf_counter()
    async with http.post(path, data=body, headers={"Content-Type": "application/json"}) as answer:
        data = await answer.read()
        if answer.status != 200:
            raise SystemExit(f"a request failed: {answer.status} {data[:300]!r}")
    return (time.perf_counter() - begun) * 1e3, msgspec.json.decode(data)


def request(image: bytes, threshold: float, **given: Any) -> bytes:
    """Return the body of a request."""
    encoded = base64.b64encode(image).decode()
    return msgspec.json.encode({"image": encoded, "confidence_threshold": threshold, **given})


@contextlib.asynccontextmanager
async def api(path: Path, folder: Path) -> Any:
    """Run a server with a checkpoint behind its API; give an HTTP session."""
    data = folder / "data"
    data.mkdir(exist_ok=True)
    settings = {"sam": {"model": str(path), "feature_cache_mb": 2_000}}
    patient = aiohttp.ClientTimeout(total=7_200)
    async with (
        serving(data, entry_points=installed("sam"), plugins=settings, **PATIENT) as at,
        aiohttp.ClientSession(at.url, headers=at.headers, timeout=patient) as http,
    ):
        yield http


async def reuse(http: aiohttp.ClientSession) -> None:
    """Print what a request costs whose image is new, and one whose image is known."""
    text = [{"type": "text", "text": "person"}]
    warm_up = request(photo(99), 0.5, prompts=text)
    await post(http, "/api/v1/image/segment", warm_up)
    full = [
        (await post(http, "/api/v1/image/segment", request(photo(seed), 0.5, prompts=text)))[0]
        for seed in range(FULL)
    ]
    warm = []
    for words in TEXTS[1 : 1 + max(3, FULL)]:
        body = request(photo(0), 0.5, text_prompts=[words])
        spent, answer = await post(http, "/api/v1/image/cached-features", body)
        assert answer["cache_hit"]
        warm.append(spent)
    body = request(photo(50), 0.5, text_prompts=TEXTS)
    ten, answer = await post(http, "/api/v1/image/cached-features", body)
    assert not answer["cache_hit"]
    one, again = statistics.median(full), statistics.median(warm)
    print("| | seconds | |")
    print("|---|---|---|")
    print(f"| a new image, one text (median of {FULL}) | {one / 1e3:.2f} | |")
    print(f"| a known image, another text (of {len(warm)}) | {again / 1e3:.2f} | ", end="")
    print(f"{one / again:.1f}x faster |")
    print(f"| a new image, ten texts in one request | {ten / 1e3:.2f} | ", end="")
    print(f"{10 * one / ten:.1f}x faster than ten requests with new images |")


async def overhead(http: aiohttp.ClientSession) -> None:
    """Print what a request costs beyond the work of the model's method, and the work on masks."""
    prompts, image = [{"type": "text", "text": "person"}], photo(7)
    path = "/api/v1/image/segment"
    _, everything = await post(http, path, request(image, 0.0, prompts=prompts))
    body = request(image, everything["scores"][MASKS - 1] - 1e-6, prompts=prompts)
    beyond, begun = [], time.process_time()
    for _ in range(ROUNDS):
        spent, answer = await post(http, path, body)
        assert answer["num_masks"] == MASKS
        beyond.append(spent - answer["inference_time_ms"])
    busy = (time.process_time() - begun) / ROUNDS * 1e3
    print(f"\nA JPEG of 1920x1080 ({len(image) / 1e3:.0f} KB), {MASKS} masks.\n")
    print("| | ms |\n|---|---|")
    print(f"| a request beyond the model's method, median of {ROUNDS} | ", end="")
    print(f"{statistics.median(beyond):.2f} (quickest {min(beyond):.2f}) |")
    print(f"| of that, processor time of the client and the server | {busy:.2f} |")
    for name, work in _pieces(image).items():
        print(f"| {name} | {_median(work):.2f} |")


def _pieces(image: bytes) -> dict[str, Callable[[], Any]]:
    """Return what the method does beside the network, each step by itself, in this process."""
    from mataserver_sam.masks import resize_to_mask

    side, size = 288, (1080, 1920)
    rows, columns = np.mgrid[:side, :side].astype(np.float32)
    noise = np.random.default_rng(0).normal(0, 0.2, (MASKS, side, side)).astype(np.float32)
    discs = [
        (40**2 - (rows - 100 - 5 * i) ** 2 - (columns - 120 - 5 * i) ** 2) / 200 + noise[i]
        for i in range(MASKS)
    ]
    masks = [resize_to_mask(each, size) for each in discs]
    share = np.mean([each.area for each in masks]) / (size[0] * size[1])
    return {
        f"stretching ten masks of {share:.0%} of the image from 288x288 logits": lambda: [
            resize_to_mask(each, size) for each in discs
        ],
        "their ten codes": lambda: [each.rle() for each in masks],
        "decoding the JPEG; not for a known image": lambda: decode_image(image, 10_000_000),
    }


def _median(work: Callable[[], Any]) -> float:
    spent = []
    for _ in range(20):
        begun = time.perf_counter()
        work()
        spent.append((time.perf_counter() - begun) * 1e3)
    return statistics.median(spent)


async def main(size: str) -> None:
    """Build, serve and measure."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        build(size, folder / size)
        print(f"SAM3 of the size {size}, random weights, float32, {os.cpu_count()} cores.\n")
        async with api(folder / size, folder) as http:
            await reuse(http)
            if size == "tiny":
                await overhead(http)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else "tiny"))
