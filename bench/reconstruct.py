"""What a reconstruction costs through the server, beside a bare script that calls pycolmap.

Run as ``python bench/reconstruct.py [ROUNDS]`` (default 5). Both get the same ZIP of sixteen
rendered photographs and the same options and threads; they take turns, and the figures are medians
with the medians of the ratios that were measured within one round. The server's time is from the
upload's first byte to the answer that the job is a success, which is asked for ten times a second;
its CPU is that of all its processes.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import psutil

from startup import environment

if TYPE_CHECKING:
    from collections.abc import Iterable

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "plugins" / "reconstruct" / "tests"))

import rendered  # noqa: E402 - the photographs that the tests render
from apart import Server  # noqa: E402 - and their server
from serving_reconstruct import packed  # noqa: E402

GOAL, LOOK = 1.15, 0.1
SCRIPT = """
import sys, zipfile, zlib
import PIL.Image
import pycolmap

archive, folder, threads = sys.argv[1], sys.argv[2], int(sys.argv[3])
pycolmap.logging.minloglevel = 3
with zipfile.ZipFile(archive) as opened:
    opened.extractall(folder + "/photos")
database, photos = folder + "/database.db", folder + "/photos"
extraction = pycolmap.FeatureExtractionOptions()
extraction.max_image_size, extraction.sift.max_num_features = 1600, 4096
extraction.num_threads = threads
pycolmap.extract_features(database, photos, camera_mode=pycolmap.CameraMode.SINGLE,
                          extraction_options=extraction, device=pycolmap.Device.cpu)
matching = pycolmap.FeatureMatchingOptions()
matching.num_threads = threads
pycolmap.match_exhaustive(database, matching_options=matching, device=pycolmap.Device.cpu)
mapping = pycolmap.IncrementalPipelineOptions()
mapping.min_model_size, mapping.num_threads = 3, 1
models = pycolmap.incremental_mapping(database, photos, folder, options=mapping)
for number, model in models.items():
    model.export_PLY(f"{folder}/{number}.ply")
print(max(model.num_reg_images() for model in models.values()))
"""
"""What whoever needs it once would write."""


class Taken(NamedTuple):
    """Seconds that a reconstruction took, on the clock and of all processors."""

    wall: float
    cpu: float


class Spent:
    """The CPU seconds of processes that live, and of those of their children that ended."""

    def __init__(self, root: int | None = None) -> None:
        self._root = psutil.Process(root)

    def now(self) -> float:
        """Return them, by tens of milliseconds."""
        everyone = [self._root, *self._root.children(recursive=True)]
        return sum(sum(each.cpu_times()[:4]) for each in everyone)


def alone(archive: Path, threads: int) -> Taken:
    """Run the script."""
    spent = Spent()
    before, begun = spent.now(), time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        program = [sys.executable, "-c", SCRIPT, str(archive), folder, str(threads)]
        ran = subprocess.run(program, check=True, capture_output=True, text=True, env=os.environ)
    if int(ran.stdout.split()[-1]) != 16:
        raise SystemExit(f"the script placed {ran.stdout}")
    return Taken(time.perf_counter() - begun, spent.now() - before)


def served(server: Server, archive: Path) -> Taken:
    """Have the server do it."""
    spent = Spent(server.process.pid)
    before, begun = spent.now(), time.perf_counter()
    job = server.send(archive.read_bytes()).json["job_id"]
    while not (done := server.ask("GET", f"/status/{job}").json)["finished_at"]:
        time.sleep(LOOK)
    if done["stage"] != "success" or done["registration_rate"] != 1.0:
        raise SystemExit(f"the server: {done}")
    return Taken(time.perf_counter() - begun, spent.now() - before)


def rounds(count: int, folder: Path) -> Iterable[tuple[Taken, Taken]]:
    """Yield what both took, round by round."""
    rendered.orbit(folder / "photos", 1, 16, "a_")
    archive = folder / "photos.zip"
    archive.write_bytes(packed(folder / "photos"))
    threads = len(os.sched_getaffinity(0))
    (folder / "data").mkdir()
    server = Server(folder / "data", reconstruct={"threads": threads})
    try:
        server.until("/ready", lambda answer: answer.status == 200)
        alone(archive, threads), served(server, archive)
        for number in range(count):
            pair = alone(archive, threads), served(server, archive)
            print(f"  {number + 1}: alone {pair[0]}, served {pair[1]}", flush=True)
            yield pair
    finally:
        server.kill()


def main() -> None:
    """Measure and print; fail above the goal."""
    os.environ.update(environment())
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    with tempfile.TemporaryDirectory() as folder:
        found = list(rounds(int(sys.argv[1]) if len(sys.argv) > 1 else 5, Path(folder)))
    print("| | script, s | server, s | ratio | goal |\n|---|---|---|---|---|")
    worst = 0.0
    for name in Taken._fields:
        pairs = [(getattr(one, name), getattr(other, name)) for one, other in found]
        middle = [statistics.median(each) for each in zip(*pairs, strict=True)]
        ratios = [other / one for one, other in pairs]
        worst = max(worst, statistics.median(ratios))
        print(
            f"| {name} | {middle[0]:.2f} | {middle[1]:.2f} | {statistics.median(ratios):.3f} "
            f"({min(ratios):.3f} to {max(ratios):.3f}) | {GOAL} |"
        )
    sys.exit(f"{worst:.3f} times the script" if worst > GOAL else 0)


if __name__ == "__main__":
    main()
