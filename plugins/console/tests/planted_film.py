"""A model for the video sessions of mataserver-sam: its objects are discs that move.

The sessions, their uploads and the frames are the plugin's own. A disc lies where it was pointed
at, one pixel further right on each later frame; a correction moves it there. Words find two.
"""

from __future__ import annotations

import importlib.metadata
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from mataserver import Backend, InvalidParams, NotFound, SegmentResult, hookimpl
from mataserver_sam.annotated_video import draw_video
from mataserver_sam.frames import Clip
from mataserver_sam.limits import Limits
from mataserver_sam.masks import Mask
from mataserver_sam.propagation import legs, steps
from mataserver_sam.stills import Stills
from mataserver_sam.video_requests import (
    PromptResult,
    Resolution,
    SessionUsage,
    Step,
    Tracked,
    VideoInfo,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

POINT = importlib.metadata.EntryPoint("film", "planted_film", "mataserver")
NAMES = {"planted-film": "segment", "planted-still": "segment"}
HELD = 20
"""The frame at which a propagation waits until ``GATE`` is set."""
GATE = threading.Event()


def disc(size: tuple[int, int], centre: tuple[float, float]) -> Mask:
    """Return the pixels around a centre ``(x, y)``."""
    y, x = np.mgrid[: size[0], : size[1]]
    return Mask.from_pixels((x - centre[0]) ** 2 + (y - centre[1]) ** 2 < (size[0] // 7) ** 2)


class Film:
    """One session: each object has the frame and the place where it was last pointed at."""

    def __init__(self, path: str) -> None:
        self.stills = Stills(Path(path), Limits())
        clip = Clip(Path(path), lambda image: image, 0, Limits())
        self.size, self.total = (clip.height, clip.width), len(clip)
        self.info = VideoInfo(
            len(clip), clip.fps, Resolution(clip.width, clip.height), clip.seconds
        )
        clip.close()
        self.places: dict[int, tuple[int, float, float]] = {}
        self.last = 0

    def seen(self, number: int, frame: int) -> Tracked:
        """Return an object on a frame."""
        at, x, y = self.places[number]
        mask = disc(self.size, (x + frame - at, y))
        return Tracked(number, mask.rle(), mask.box(), 0.9)

    def place(self, prompt: Any) -> list[tuple[float, float]]:
        """Return where a prompt points, in pixels."""
        height, width = self.size
        if prompt.text == "nothing":
            return []
        if prompt.text is not None:
            return [(width * 0.25, height * 0.5), (width * 0.6, height * 0.5)]
        if prompt.points is None:
            return [(prompt.box[0] * width, prompt.box[1] * height)]
        inside = [point for point, label in zip(prompt.points, prompt.labels, strict=True) if label]
        return [(x * width, y * height) for x, y in inside[-1:]]


class Films:
    """The video half, called as ``mataserver_sam.videos.Videos`` is."""

    def __init__(self) -> None:
        self._open: dict[str, Film] = {}

    def _find(self, name: str) -> Film:
        if name not in self._open:
            raise NotFound(f"Session {name} not found")
        return self._open[name]

    def open(self, name: str, path: str, _gpus: Any) -> VideoInfo:
        """Open."""
        self._open[name] = Film(path)
        return self._open[name].info

    def picture(self, name: str, frame: int) -> bytes:
        """Return a frame."""
        return self._find(name).stills.jpeg(frame)

    def prompt(self, name: str, asked: Any) -> tuple[PromptResult, SessionUsage]:
        """Show or move discs."""
        film, frame = self._find(name), asked.frame_index
        places = [place for prompt in asked.prompts for place in film.place(prompt)]
        numbers = []
        for place in places:
            if asked.obj_id is None:
                film.last += 1
            number = asked.obj_id or film.last
            film.places[number] = (frame, *place)
            numbers.append(number)
        if asked.obj_id is not None and not places:  # pointed beside it
            numbers = [asked.obj_id]
        seen = [film.seen(number, frame) for number in numbers]
        told = PromptResult(
            frame,
            [each.id for each in seen],
            [each.mask for each in seen],
            [each.box for each in seen],
            [each.score for each in seen],
        )
        return told, SessionUsage(len(film.places))

    def propagate(self, name: str, asked: Any) -> Iterator[Step]:
        """Move them."""
        film = self._find(name)
        plan = legs(film.total, asked.direction, asked.start_frame_index, asked.max_frames)
        for frame, _ in steps(plan):
            if frame == HELD:
                GATE.wait(60)
            told = [film.seen(number, frame) for number in film.places]
            shown = [each for each in told if each.box[2]]
            yield Step(frame, msgspec.json.encode(shown), SessionUsage(len(film.places), frame))

    def annotated_video(self, name: str, asked: Any) -> Iterator[bytes]:
        """Draw a video."""
        film = self._find(name)
        yield from draw_video(film.stills, film.size, asked)

    def remove(self, name: str, number: int) -> SessionUsage:
        """Remove a disc."""
        film = self._find(name)
        if film.places.pop(number, None) is None:
            raise NotFound(f"Object {number} not found")
        return SessionUsage(len(film.places))

    def reset(self, name: str) -> tuple[int, SessionUsage]:
        """Remove all."""
        film = self._find(name)
        count = len(film.places)
        film.places.clear()
        return count, SessionUsage()

    def close(self, name: str) -> int:
        """Close."""
        self._find(name).stills.close()
        del self._open[name]
        return 0


class Model:
    """The model; one that is called still knows no videos."""

    def __init__(self, name: str) -> None:
        self._films = Films() if name == "planted-film" else None

    def predict(self, images: Any, _params: Any) -> list[SegmentResult]:
        """Find nothing."""
        return [SegmentResult([]) for _ in images]

    def describe(self) -> dict[str, Any]:
        """Tell what it can."""
        known = ["text_prompt", "box_prompt", "point_prompt"]
        return {
            "device": "cpu",
            "capabilities": [*known, "video_tracking"][: None if self._films else 3],
            "gpus": [],
        }

    def video(self, method: str, *args: Any) -> Any:
        """Call the video half."""
        if self._films is None:
            raise InvalidParams("The model supports images only, not videos")
        return getattr(self._films, method)(*args)

    def video_stream(self, method: str, *args: Any) -> Iterator[Any]:
        """Iterate over what the video half yields."""
        yield from getattr(self._films, method)(*args)


def load(spec: Any, _context: Any) -> Model:
    """Make the model."""
    return Model(spec.name)


@hookimpl
def backends() -> list[Backend]:
    """Return both models."""
    return [Backend(name=name, task=task, source="pip", load=load) for name, task in NAMES.items()]
