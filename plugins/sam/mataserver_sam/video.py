"""One video session in the worker: a video, what was prompted in it, and what trackers remember.

Nothing here knows HTTP. The model holds no state of a session, so the frames of several sessions
may take turns; one session is not for two threads.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import torch

from mataserver import BadRequest, InvalidParams, NotFound
from mataserver_sam.boxes import corners
from mataserver_sam.collecting import Budget, bytes_of
from mataserver_sam.encoded_frame import Features
from mataserver_sam.forgetting import NOWHERE
from mataserver_sam.object_numbers import ObjectNumbers
from mataserver_sam.object_track import ObjectTrack
from mataserver_sam.prompts import named
from mataserver_sam.propagation import check_frame, legs, steps
from mataserver_sam.reel import reel
from mataserver_sam.tally import Tally
from mataserver_sam.text_tracks import TextTracks
from mataserver_sam.video_requests import Prompted, Resolution, Step, Tracked, VideoInfo

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mataserver_sam.footage import Footage
    from mataserver_sam.network import Network
    from mataserver_sam.prompts import Prompt
    from mataserver_sam.sighting import Sighting
    from mataserver_sam.video_requests import Figures, PromptRequest, PropagateRequest, ReelRequest

MEASURED_EVERY = 16
"""In a propagation memory is measured on every so many frames."""


class Video:
    """One session. Objects are numbered from 1, in the order in which they are first seen.

    ``max_objects`` bounds those that boxes and points show.
    """

    def __init__(self, network: Network, footage: Footage, max_objects: int) -> None:
        self._network = network
        self._footage = footage
        self._features = Features(network, footage)
        self._max_objects = max_objects
        self._begin()

    def _begin(self) -> None:
        self._texts: TextTracks | None = None
        self._tracks: dict[int, ObjectTrack] = {}
        self._numbers = ObjectNumbers()
        self._tally = Tally(len(self._footage))

    @property
    def info(self) -> VideoInfo:
        """What the video is."""
        clip = self._footage.clip
        return VideoInfo(len(clip), clip.fps, Resolution(clip.width, clip.height), clip.seconds)

    @property
    def objects(self) -> list[int]:
        """The numbers of the objects that are tracked and not removed."""
        return sorted([*self._found_by_texts(), *self._tracks])

    def prompt(self, asked: PromptRequest) -> Prompted:
        """Show new objects or correct one on a frame; return those objects as they are there.

        Raises ``InvalidParams`` for what this model cannot be asked, ``NotFound`` for an unknown
        object, ``BadRequest`` for a frame that cannot be decoded. Nothing has changed then.
        """
        frame = asked.frame_index
        check_frame("frame_index", frame, len(self._footage))
        _check_boxes(asked.prompts)
        with torch.inference_mode():
            self._footage.clip.frame(frame)
            if asked.obj_id is None:
                seen = self._introduced(frame, asked.prompts)
            else:
                seen = [self._corrected(frame, asked.obj_id, asked.prompts)]
        self._tally.visit(frame)
        told = _told(seen, asked.mask_format)
        return Prompted(
            frame,
            [each.id for each in told],
            [each.mask for each in told],
            [each.box for each in told],
            [each.score for each in told],
        )

    def propagate(self, asked: PropagateRequest) -> Iterator[Step]:
        """Track every object from frame to frame; each frame is computed when it is asked for.

        Raises ``BadRequest`` when nothing was prompted, ``InvalidParams`` for a start beyond the
        end.
        """
        if self._texts is None and not self._tracks:
            raise BadRequest("There is nothing to track: the session has no prompts")
        start = asked.start_frame_index
        plan = legs(len(self._footage), asked.direction, start, asked.max_frames)
        both = len(plan) > 1 and bool(plan[1].frames)
        pinned = range(start, start + self._network.reach.pointers + 1)
        for count, (frame, reverse) in enumerate(steps(plan)):
            seen = self._step(frame, reverse=reverse, pinned=pinned if both else NOWHERE)
            told = _told(seen, asked.mask_format)
            if count % MEASURED_EVERY == 0:
                self._measure()
            yield Step(frame, msgspec.json.encode(told), self._figures())

    def picture(self, frame: int) -> bytes:
        """Return a frame as a JPEG, as ``Stills`` does.

        Raises ``InvalidParams`` for a frame beyond the end.
        """
        check_frame("frame_index", frame, len(self._footage))
        return self._footage.stills.jpeg(frame)

    def reel(self, asked: ReelRequest) -> Iterator[bytes]:
        """Draw a video, as ``reel`` does."""
        yield from reel(self._footage.stills, self._footage.size, asked)

    def remove(self, number: int) -> None:
        """Give an object up. What a text found is tracked on, unseen: it must not be found again.

        Raises ``NotFound``.
        """
        if self._tracks.pop(number, None) is None:
            tracks, found = self._found(number)
            tracks.hide(found)

    def reset(self) -> int:
        """Begin anew on the same video; return how many objects there were."""
        count = len(self.objects)
        self._begin()
        self._features.clear_all()
        return count

    def figures(self) -> Figures:
        """Count and measure."""
        self._measure()
        return self._figures()

    def close(self) -> None:
        """Close the video and forget everything."""
        self._begin()
        self._features.clear_all()
        self._footage.close()

    def _introduced(self, frame: int, prompts: Sequence[Prompt]) -> list[Sighting]:
        texts = [each.text for each in prompts if each.text is not None]
        shown = [each for each in prompts if each.type != "text"]
        for index, each in enumerate(prompts):
            if each.points and each.box is None and not any(each.labels):
                raise InvalidParams(
                    f"prompts[{index}].point_labels: a new object needs a point on it"
                )
        if shown and len(self.objects) + len(shown) > self._max_objects:
            raise InvalidParams(f"prompts: a session tracks at most {self._max_objects} objects")
        seen = self._searched(frame, texts) if texts else []
        for each in shown:
            track = ObjectTrack(self._network, self._footage, self._features)
            sighting = track.prompt(frame, _corners(each), each.points or (), each.labels)
            number = self._numbers.next()
            self._tracks[number] = track
            seen.append(sighting._replace(number=number))
        return seen

    def _searched(self, frame: int, texts: Sequence[str]) -> list[Sighting]:
        weights = self._network.texts
        if weights is None:
            raise InvalidParams("prompts: this model does not take text")
        tracks = self._texts or TextTracks(weights, self._network, self._footage, self._features)
        with named("prompts"):
            wanted = tracks.add(texts)
        self._texts = tracks
        seen = tracks.step(frame)
        return self._numbers.numbered(
            [each for each in seen if tracks.text_of(each.number) in wanted]
        )

    def _corrected(self, frame: int, number: int, prompts: Sequence[Prompt]) -> Sighting:
        boxes = [_corners(each) for each in prompts if each.box is not None]
        if any(each.type == "text" for each in prompts) or len(boxes) > 1:
            raise InvalidParams("prompts: points and at most one box correct an object")
        track = self._tracks.get(number) or self._adopted(frame, number)
        points = [point for each in prompts for point in each.points or ()]
        labels = [label for each in prompts for label in each.labels]
        sighting = track.prompt(frame, boxes[0] if boxes else (), points, labels)
        return sighting._replace(number=number)

    def _adopted(self, frame: int, number: int) -> ObjectTrack:
        """Track an object that a text found by itself from now on, from its mask on ``frame``."""
        tracks, found = self._found(number)
        logits = tracks.seen(found, frame)
        track = ObjectTrack(self._network, self._footage, self._features)
        if logits is not None and bool((logits > 0).any()):
            track.seed(frame, logits)
        tracks.hide(found)
        self._tracks[number] = track
        return track

    def _step(self, frame: int, *, reverse: bool, pinned: range) -> list[Sighting]:
        with torch.inference_mode():
            seen = []
            if self._texts is not None:
                seen = self._numbers.numbered(
                    self._texts.step(frame, reverse=reverse, pinned=pinned)
                )
            for number, track in self._tracks.items():
                sighting = track.step(frame, reverse=reverse, pinned=pinned)
                if sighting.mask.area:
                    seen.append(sighting._replace(number=number))
        self._tally.visit(frame)
        return sorted(seen, key=lambda each: each.number)

    def _found_by_texts(self) -> dict[int, int]:
        """Return the objects that texts found, as ``ObjectNumbers.of`` does."""
        return self._numbers.of([] if self._texts is None else self._texts.numbers)

    def _found(self, number: int) -> tuple[TextTracks, int]:
        found = self._found_by_texts().get(number)
        if found is None or self._texts is None:
            raise NotFound(f"Object {number} not found")
        return self._texts, found

    def _measure(self) -> None:
        held: list[Any] = [self._features.kept, [each.tensors() for each in self._tracks.values()]]
        if self._texts is not None:
            held.append(self._texts.tensors())
        shared, cached = self._network.reach.positions, self._footage.cached_bytes
        self._tally.measure(held, shared=shared, cached=cached)

    def _figures(self) -> Figures:
        return self._tally.figures(len(self.objects))


def _check_boxes(prompts: Sequence[Prompt]) -> None:
    for index, each in enumerate(prompts):
        if not each.wanted:
            raise InvalidParams(
                f"prompts[{index}].label: objects in a video cannot be shown by what they are not; "
                "use points with the label 0"
            )


def _corners(prompt: Prompt) -> Sequence[Sequence[float]]:
    """Return the two corners of a prompt's box within the frame; none without a box."""
    if prompt.box is None:
        return ()
    x1, y1, x2, y2 = (min(max(each, 0.0), 1.0) for each in corners(prompt.box))
    return ((x1, y1), (x2, y2))


def _told(seen: Sequence[Sighting], asked: str | None) -> list[Tracked]:
    """Return objects as they are answered. Raises ``InvalidParams`` when they grow too large."""
    form: Any = asked or "rle"
    budget, told = Budget(), []
    for each in seen:
        mask = each.mask.told(form)
        budget.spend(bytes_of(mask))
        told.append(Tracked(each.number, mask, each.mask.box(), each.score))
    return told
