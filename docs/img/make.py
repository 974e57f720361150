"""Make the pictures of docs/models.md: ask a real server, draw what it answers.

python docs/img/make.py [FOLDER]

Prints the answers that the page shows, as JSON. Faces, codes, tracks and text are found by real
models (mataserver-opencv, -ocr and -track must be installed). The other tasks are answered by
``planted.py``, which knows the drawn scene: those pictures show what an answer holds, not what a
model can do.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import io
import json
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import drawing
import msgspec
import planted
import scene
from PIL import Image

from mataserver.testing import installed, serving
from mataserver_client import AsyncClient, FrameError

if TYPE_CHECKING:
    from mataserver.results import InferResponse
HERE = Path(__file__).parent
PICTURES = HERE.parents[1] / "examples" / "pictures"
PLANTED = importlib.metadata.EntryPoint("planted", "planted", "mataserver")
REAL = {"opencv-faces": "detect", "opencv-qr": "detect", "rapidocr": "ocr"}
FRAMES, SHOWN = 25, (1, 12, 24)
PIXELS, CUT = ("mask", "depth_map"), 12
"""Fields of base64, and how much of them is printed."""


class Maker:
    """Asks one server; collects pictures and the answers that the page shows, by task."""

    def __init__(self, client: AsyncClient) -> None:
        self._client = client
        self.scene = scene.picture()
        self.pictures: dict[str, Image.Image] = {}
        self.answers: dict[str, InferResponse] = {}

    async def make(self) -> None:
        """Make them all."""
        for task in (self.detect, self.track, self.ocr, self.classify, self.segment):
            await task()
        for task in (self.pose, self.depth, self.embed, self.vlm):
            await task()

    async def _ask(self, task: str, model: str, image: bytes, **params: Any) -> InferResponse:
        """Return the answer; the first one of a task is kept."""
        answer = await self._client.infer(model, image, **params)
        self.answers.setdefault(task, answer)
        return answer

    async def _planted(self, task: str, **params: Any) -> InferResponse:
        return await self._ask(task, f"planted-{task}", encoded(self.scene, "PNG"), **params)

    async def detect(self) -> None:
        """Find codes, and a face."""
        drawn = []
        for model, name in (("opencv-qr", "codes.jpg"), ("opencv-faces", "astronaut.jpg")):
            answer = await self._ask("detect", model, (PICTURES / name).read_bytes())
            drawn.append(drawing.scaled(drawing.boxes(opened(name), tagged(answer)), 260))
        self.pictures["detect"] = drawing.beside(*drawn)

    async def track(self) -> None:
        """Follow codes through frames that slide sideways; show three of them."""
        frames = [slid(number) for number in range(FRAMES)]
        results = [
            item
            async for item in self._client.stream(
                "opencv-qr", map(encoded, frames), task="track", timing="frames"
            )
            if not isinstance(item, FrameError)
        ]
        shown = [drawing.boxes(frames[n], tracked(results[n])) for n in SHOWN]
        self.answers["track"] = results[SHOWN[-1]]
        self.pictures["track"] = drawing.beside(*(drawing.scaled(each, 160) for each in shown))

    async def ocr(self) -> None:
        """Read the receipt."""
        answer = await self._ask("ocr", "rapidocr", (PICTURES / "receipt.jpg").read_bytes())
        regions = [region for region in answer.regions or () if region.bbox is not None]
        framed = drawing.boxes(opened("receipt.jpg"), [("", r.bbox, 1) for r in regions if r.bbox])
        said = [f"{region.confidence:.2f}  {region.text}" for region in regions]
        small = drawing.scaled(framed, 400)
        self.pictures["ocr"] = drawing.beside(small, drawing.lines(said, (340, 400)))

    async def classify(self) -> None:
        """Name what the scene is about."""
        answer = await self._planted("classify")
        scores = [(each.label, each.confidence) for each in answer.classifications or ()]
        chart = drawing.bars(scores, (360, scene.HEIGHT))
        self.pictures["classify"] = drawing.beside(self.scene, chart)

    async def segment(self) -> None:
        """Outline the things of the scene."""
        answer = await self._planted("segment")
        self.pictures["segment"] = drawing.masks(self.scene, answer.segments or [])

    async def pose(self) -> None:
        """Find the person's joints."""
        answer = await self._planted("pose")
        self.pictures["pose"] = drawing.skeletons(self.scene, answer.keypoints or [])

    async def depth(self) -> None:
        """Tell how near everything is."""
        answer = await self._planted("depth")
        self.pictures["depth"] = drawing.beside(self.scene, drawing.nearness(answer))

    async def embed(self) -> None:
        """Compare the scene with other pictures, the likeliest first."""
        query = (await self._ask("embed", "colours", encoded(self.scene, "PNG"))).embedding
        night = self.scene.point(lambda value: value * 0.6)
        found = []
        for other in (night, *map(opened, ("codes.jpg", "receipt.jpg", "astronaut.jpg"))):
            vector = (await self._ask("embed", "colours", encoded(other, "PNG"))).embedding
            found.append((sum(a * b for a, b in zip(query, vector, strict=True)), other))
        found.sort(key=lambda each: -each[0])
        tiles = [labelled(other, f"{likeness:.2f}") for likeness, other in found]
        self.pictures["embed"] = drawing.beside(labelled(self.scene, "the query"), *tiles)

    async def vlm(self) -> None:
        """Ask where things are."""
        prompt = "Where are the ball and the parcel?"
        answer = await self._planted("vlm", prompt=prompt, output_mode="detect")
        drawn = drawing.boxes(self.scene, tagged(answer))
        said = drawing.lines([f"“{prompt}”"], (scene.WIDTH, 44))
        self.pictures["vlm"] = drawing.below(said, drawn)


def opened(name: str) -> Image.Image:
    """Return one of the pictures of the examples."""
    return Image.open(PICTURES / name).convert("RGB")


def encoded(picture: Image.Image, form: str = "JPEG") -> bytes:
    """Return a picture as the bytes of a file."""
    buffer = io.BytesIO()
    picture.save(buffer, form, quality=90)
    return buffer.getvalue()


def slid(number: int) -> Image.Image:
    """Return a frame of the video: the codes, further to the right with every number."""
    canvas = Image.new("RGB", (640, 300), (30, 30, 30))
    canvas.paste(opened("codes.jpg").resize((560, 245)), (4 * number - 10, 28))
    return canvas


def tagged(answer: InferResponse) -> list[tuple[str, drawing.Box, int]]:
    """Return an answer's detections with label and confidence, each in a colour of its own."""
    found = enumerate(answer.detections or [])
    return [(f"{each.label} {each.confidence:.2f}", each.bbox, n) for n, each in found]


def tracked(answer: InferResponse) -> list[tuple[str, drawing.Box, int]]:
    """Return an answer's detections with their ids, which choose the colours."""
    found = answer.detections or []
    return [(f"id {each.track_id}", each.bbox, cast("int", each.track_id)) for each in found]


def labelled(picture: Image.Image, text: str) -> Image.Image:
    """Return a small picture with a line of text below."""
    small = drawing.scaled(picture, 120)
    return drawing.below(small, drawing.lines([text], (small.width, 36)))


def printable(answer: InferResponse) -> dict[str, Any]:
    """Return an answer as the page shows it: long bytes are cut, numbers rounded."""
    kept = msgspec.to_builtins(answer)
    for left_out in ("timestamp", "session_id", "inference_ms"):
        kept.pop(left_out, None)
    shown: dict[str, Any] = _short(kept)
    return shown


def _short(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 2)
    if isinstance(value, dict):
        return {
            name: f"{each[:CUT]}…" if name in PIXELS else _short(each)
            for name, each in value.items()
        }
    return [_short(each) for each in value] if isinstance(value, (list, tuple)) else value


async def main(folder: Path) -> None:
    """Make the pictures in ``folder`` and print the answers."""
    tasks: dict[str, str] = REAL | {each.name: each.task for each in planted.backends()}
    models = [{"model": name, "task": task, "engine": "thread"} for name, task in tasks.items()]
    points = [*installed("opencv", "ocr", "track"), PLANTED]
    with tempfile.TemporaryDirectory(prefix="mataserver-pictures-") as data:
        async with (
            serving(Path(data), entry_points=points, models=models) as server,
            AsyncClient(server.url, server.key) as client,
        ):
            maker = Maker(client)
            await maker.make()
    maker.scene.save(folder / "scene.png")
    for name, drawn in maker.pictures.items():
        drawn.save(folder / f"{name}.jpg", quality=82)
    for answer in maker.answers.values():
        sys.stdout.write(json.dumps(printable(answer), ensure_ascii=False) + "\n")


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE))
