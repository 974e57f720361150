"""Text recognition: pages a second through the server, beside the engines by themselves.

Run as ``python bench/ocr.py [ROUNDS]`` (default 3). ``rapidocr`` is measured beside the library
with the same networks, options and threads in a process of its own, over one connection and over
two, the latter beside two such processes; ``tesseract`` beside its program. All get the same files:
a receipt, a full page of text, and a photograph with little text. They take turns, page by page and
round by round, and sleep while others are measured. Figures are medians, ratios are those of each
round. The words of every answer have to be the engine's own.
"""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from PIL import Image, ImageDraw, ImageFont

from contestants import Server
from question import Bodies
from tree import Tree

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

PICTURES = Path(__file__).resolve().parents[1] / "examples" / "pictures"
GOAL, TURN = 0.95, 1.2
"""The least pages a second of ``rapidocr`` in the library's, and a turn's seconds at least."""
SIZE, MARGIN, PITCH, LETTERS = (1654, 2339), 140, 56, 32
"""Of the drawn page, in pixels: a sheet of A4 at 200 dots per inch.

It has two columns: the library takes longer lines for upside down, and reads them so.
"""
SIGN, PLACE, PHOTO = "LAUNCH COMPLEX 39", (40, 940), 1024
"""What is written on the photograph and where, in letters of the page's size, and its side."""
TEXT = (
    "the harbour master writes down every ship that enters before noon and what it carries "
    "timber copper herring salt and glass while the clerk counts barrels on the quay"
)
PAIRS = (
    ("`rapidocr`", "library", "rapidocr", 1),
    ("`rapidocr`, two at once", "library", "rapidocr", 2),
    ("`tesseract`", "program", "tesseract", 1),
)
"""What is compared: its name, the engine by itself, the server's model, and pages at once."""


class Taken(NamedTuple):
    """Pages a second, and the CPU seconds of a page, of all processes."""

    rate: float
    cpu: float


def draw(folder: Path) -> list[Path]:
    """Write a full page of text and a photograph of a sign; return all pages."""
    full, photo = folder / "full page.jpg", folder / "photograph.jpg"
    page, font = Image.new("L", SIZE, "white"), ImageFont.load_default(LETTERS)
    words, at, pen = TEXT.split(), 0, ImageDraw.Draw(page)
    for left, right in ((MARGIN, SIZE[0] // 2 - 40), (SIZE[0] // 2 + 40, SIZE[0] - MARGIN)):
        for top in range(MARGIN, SIZE[1] - MARGIN, PITCH):
            line = f"{at}"
            while pen.textlength(f"{line} {words[at % len(words)]}", font) < right - left:
                line, at = f"{line} {words[at % len(words)]}", at + 1
            pen.text((left, top), line, "black", font)
    page.save(full, quality=90)
    with Image.open(PICTURES / "astronaut.jpg") as opened:
        picture = opened.convert("RGB").resize((PHOTO, PHOTO), Image.Resampling.LANCZOS)
    pen = ImageDraw.Draw(picture)
    x1, y1, x2, y2 = pen.textbbox(PLACE, SIGN, font)
    pen.rectangle((x1 - LETTERS, y1 - LETTERS, x2 + LETTERS, y2 + LETTERS), "white")
    pen.text(PLACE, SIGN, "black", font)
    picture.save(photo, quality=90)
    return [PICTURES / "receipt.jpg", full, photo]


def answer(read: Callable[[str], str]) -> None:
    """Answer each line of the input, the path of a page, by its text in JSON."""
    for line in sys.stdin:
        print(json.dumps(read(line.strip())), flush=True)


def library() -> Callable[[str], str]:
    """Return RapidOCR's own way of reading a file, with what the plugin tells the engine."""
    import onnxruntime
    import rapidocr

    from mataserver_ocr.options import RapidOcrSettings
    from mataserver_ocr.rapidocr import options_of

    onnxruntime.disable_telemetry_events()
    models = Path(rapidocr.__path__[0]) / "models"
    engine: Any = rapidocr.RapidOCR(params=options_of(models, RapidOcrSettings(), 0))
    return lambda path: "\n".join(engine(path).txts or ())


def program(path: str) -> str:
    """Return what Tesseract's program reads in a file."""
    command = ["tesseract", path, "-", "-l", "eng"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


class Alone:
    """An engine by itself, in processes that each read a page at a time."""

    def __init__(self, engine: str, processes: int = 1) -> None:
        command = [sys.executable, __file__, engine]
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        there = {**os.environ, "OMP_THREAD_LIMIT": "1"} if engine == "program" else None
        self._lanes = [subprocess.Popen(command, env=there, **pipes) for _ in range(processes)]
        self.trees = [Tree(each.pid) for each in self._lanes]
        self.lanes = [lambda page, each=each: self._read(each, page) for each in self._lanes]

    @staticmethod
    def _read(lane: subprocess.Popen[str], page: Path) -> str:
        assert lane.stdin is not None
        assert lane.stdout is not None
        print(page, file=lane.stdin, flush=True)
        return str(json.loads(lane.stdout.readline()))

    def close(self) -> None:
        """End its processes."""
        for tree, lane in zip(self.trees, self._lanes, strict=True):
            tree.end()
            lane.communicate()


class Served:
    """A model of our server, asked by clients that each wait for their answers."""

    def __init__(self, server: Server, model: str, connections: int = 1) -> None:
        self._url = f"{server.base}/v1/infer?model={model}"
        self.trees = [server.tree]
        self.lanes = [self._read] * connections

    def _read(self, page: Path) -> str:
        asked = urllib.request.Request(self._url, page.read_bytes(), {"Content-Type": "image/jpeg"})
        try:
            with urllib.request.urlopen(asked) as answered:
                return str(json.load(answered)["text"])
        except urllib.error.HTTPError as error:
            raise SystemExit(f"{self._url}: {error.read().decode()}") from error


Contestant = Alone | Served


def spent(trees: Sequence[Tree]) -> float:
    """Return the CPU seconds of processes, and of those of their children that have ended."""
    return sum(sum(each.cpu_times()[:4]) for tree in trees for each in tree.processes())


def turn(who: Contestant, page: Path, count: int, words: Counter[str]) -> Taken:
    """Have a page read ``count`` times in each lane. Raises ``SystemExit`` for other words."""

    def lane(read: Callable[[Path], str]) -> list[str]:
        return [read(page) for _ in range(count)]

    with contextlib.ExitStack() as awake, ThreadPoolExecutor(len(who.lanes)) as pool:
        for tree in who.trees:
            awake.enter_context(tree.awake())
        before, begun = spent(who.trees), time.perf_counter()
        texts = [text for told in pool.map(lane, who.lanes) for text in told]
        seconds, cpu = time.perf_counter() - begun, spent(who.trees) - before
    for text in texts:
        if words and (other := Counter(text.split())) != words:
            raise SystemExit(f"{page.stem}: {dict(words - other)} became {dict(other - words)}")
    if not words:
        words.update(texts[0].split())
    return Taken(len(texts) / seconds, cpu / len(texts))


def start(folder: Path) -> Server:
    """Start our server with its default settings but for the key and the models."""
    models = [
        {"model": name, "task": "ocr", "keep_alive": -1} for name in ("rapidocr", "tesseract")
    ]
    settings = {"auth_mode": "none", "data_dir": str(folder), "log_level": "warning"}
    chosen = folder / "mataserver.yaml"
    chosen.write_text(json.dumps({**settings, "models": models}))
    command = [sys.executable, "-m", "mataserver", "serve", "--config", str(chosen), "--port"]
    return Server(lambda port: [*command, str(port)], lambda base, _: base, Bodies(folder))


def measure(rounds: int, folder: Path) -> Iterator[tuple[str, str, list[tuple[Taken, Taken]]]]:
    """Yield each page, each pair and what both took, round by round."""
    with contextlib.ExitStack() as ends:
        server = start(folder)
        ends.callback(server.close)
        pairs: dict[str, tuple[Alone, Served]] = {}
        for name, engine, model, lanes in PAIRS:
            pairs[name] = Alone(engine, lanes), Served(server, model, lanes)
            ends.callback(pairs[name][0].close)
        for page in draw(folder):
            words = {name: Counter[str]() for name in pairs}
            counts, took = {}, {name: list[tuple[Taken, Taken]]() for name in pairs}
            for name, (alone, served) in pairs.items():
                turn(alone, page, 1, words[name])  # opens the networks
                turn(served, page, 1, words[name])
                rate = turn(alone, page, 1, words[name]).rate / len(alone.lanes)
                counts[name] = max(1, round(TURN * rate))
            for _ in range(rounds):
                for name, (alone, served) in pairs.items():
                    asked = page, counts[name], words[name]
                    took[name].append((turn(alone, *asked), turn(served, *asked)))
            for name in pairs:
                yield page.stem, name, took[name]


def main() -> None:
    """Measure and print; fail below the goal."""
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    print("| page | | by itself, pages/s | server, pages/s | ratio | CPU of a page, s | ratio |")
    print("|---|---|---|---|---|---|---|")
    worst = 9.0
    with tempfile.TemporaryDirectory() as folder:
        for page, name, took in measure(int(sys.argv[1]) if len(sys.argv) > 1 else 3, Path(folder)):
            one, other = ([pair[i] for pair in took] for i in (0, 1))
            rates = [statistics.median(each.rate for each in whose) for whose in (one, other)]
            costs = [statistics.median(each.cpu for each in whose) for whose in (one, other)]
            gains = [ours.rate / theirs.rate for theirs, ours in took]
            more = statistics.median(ours.cpu / theirs.cpu for theirs, ours in took)
            if "rapidocr" in name:
                worst = min(worst, statistics.median(gains))
            print(
                f"| {page} | {name} | {rates[0]:.2f} | {rates[1]:.2f} | "
                f"{statistics.median(gains):.2f} ({min(gains):.2f} to {max(gains):.2f}) | "
                f"{costs[0]:.3f}, {costs[1]:.3f} | {more:.2f} |",
                flush=True,
            )
    print(f"\nLoad average {os.getloadavg()[0]:.1f} at the end.")
    sys.exit(f"{worst:.2f} of what the library does by itself" if worst < GOAL else 0)


if __name__ == "__main__":
    if len(sys.argv) > 1 and sys.argv[1] in {"library", "program"}:
        answer(library() if sys.argv[1] == "library" else program)
    else:
        main()
