"""One video session in the worker: a video, its prompts, and the trackers' state.

This module is independent of HTTP. The model holds no state of a session, so several sessions may
alternate; one session is not thread-safe.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import torch

from mataserver import BadRequest, InvalidParams, NotFound
from mataserver_sam.annotated_video import draw_video
from mataserver_sam.boxes import corners
from mataserver_sam.encoded_frame import FrameFeatures
from mataserver_sam.image_answers import ByteBudget, bytes_of
from mataserver_sam.memory_pruning import NO_FRAMES
from mataserver_sam.object_numbers import ObjectNumbers
from mataserver_sam.object_track import ObjectTrack
from mataserver_sam.prompts import check_points, prefix_errors
from mataserver_sam.propagation import check_frame, legs, steps
from mataserver_sam.session_statistics import SessionStatistics
from mataserver_sam.text_tracks import TextTracks
from mataserver_sam.video_requests import PromptResult, Resolution, Step, Tracked, VideoInfo

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mataserver_sam.footage import Footage
    from mataserver_sam.frame_object import FrameObject
    from mataserver_sam.network import Network
    from mataserver_sam.prompts import Prompt
    from mataserver_sam.video_requests import (
        AnnotatedVideoRequest,
        PromptRequest,
        PropagateRequest,
        SessionUsage,
    )

MEASURE_INTERVAL = 16
"""A propagation measures memory once per so many frames."""


class Video:
    """One session. Objects are numbered from 1, in the order of their first appearance.

    ``max_objects`` limits those from boxes and points.
    """

    def __init__(self, network: Network, footage: Footage, max_objects: int) -> None:
        self._network = network
        self._footage = footage
        self._features = FrameFeatures(network, footage)
        self._max_objects = max_objects
        self._reset_state()

    def _reset_state(self) -> None:
        self._texts: TextTracks | None = None
        self._tracks: dict[int, ObjectTrack] = {}
        self._numbers = ObjectNumbers()
        self._statistics = SessionStatistics(len(self._footage))

    @property
    def info(self) -> VideoInfo:
        """The video's size, length and frame rate."""
        clip = self._footage.clip
        return VideoInfo(len(clip), clip.fps, Resolution(clip.width, clip.height), clip.seconds)

    @property
    def objects(self) -> list[int]:
        """The numbers of the objects that are tracked and not removed."""
        return sorted([*self._text_objects(), *self._tracks])

    def prompt(self, asked: PromptRequest) -> PromptResult:
        """Add new objects or correct one on a frame; return those objects on it.

        Raises ``InvalidParams`` for prompts that this model does not support, ``NotFound`` for an
        unknown object, ``BadRequest`` for a frame that cannot be decoded. The session is unchanged
        then.
        """
        frame = asked.frame_index
        check_frame("frame_index", frame, len(self._footage))
        _check_boxes(asked.prompts)
        with torch.inference_mode():
            self._footage.clip.frame(frame)
            if asked.obj_id is None:
                seen = self._add_objects(frame, asked.prompts)
            else:
                seen = [self._correct_object(frame, asked.obj_id, asked.prompts)]
        self._statistics.add_frame(frame)
        told = _encode_objects(seen, asked.mask_format)
        return PromptResult(
            frame,
            [each.id for each in told],
            [each.mask for each in told],
            [each.box for each in told],
            [each.score for each in told],
        )

    def propagate(self, asked: PropagateRequest) -> Iterator[Step]:
        """Track every object from frame to frame; each frame is computed on demand.

        Raises ``BadRequest`` without prompts, ``InvalidParams`` for a start beyond the end.
        """
        if self._texts is None and not self._tracks:
            raise BadRequest("There is nothing to track: the session has no prompts")
        start = asked.start_frame_index
        plan = legs(len(self._footage), asked.direction, start, asked.max_frames)
        both = len(plan) > 1 and bool(plan[1].frames)
        pinned = range(start, start + self._network.pruner.pointers + 1)
        for count, (frame, reverse) in enumerate(steps(plan)):
            seen = self._step(frame, reverse=reverse, pinned=pinned if both else NO_FRAMES)
            told = _encode_objects(seen, asked.mask_format)
            if count % MEASURE_INTERVAL == 0:
                self._measure()
            is_damaged = self._footage.clip.is_damaged(frame)
            yield Step(frame, msgspec.json.encode(told), self._figures(), is_damaged)

    def picture(self, frame: int) -> bytes:
        """Return a frame as a JPEG, as ``Stills`` does.

        Raises ``InvalidParams`` for a frame beyond the end.
        """
        check_frame("frame_index", frame, len(self._footage))
        return self._footage.stills.jpeg(frame)

    def annotated_video(self, asked: AnnotatedVideoRequest) -> Iterator[bytes]:
        """Draw a video, as ``draw_video`` does."""
        yield from draw_video(self._footage.stills, self._footage.size, asked)

    def remove(self, number: int) -> None:
        """Remove an object. One found by a text is hidden instead, so that it is not found again.

        Raises ``NotFound``.
        """
        if self._tracks.pop(number, None) is None:
            tracks, found = self._text_object(number)
            tracks.hide(found)

    def reset(self) -> int:
        """Restart on the same video; return how many objects there were."""
        count = len(self.objects)
        self._reset_state()
        self._features.clear_all()
        return count

    def figures(self) -> SessionUsage:
        """Measure and return the figures."""
        self._measure()
        return self._figures()

    def close(self) -> None:
        """Close the video and drop all state."""
        self._reset_state()
        self._features.clear_all()
        self._footage.close()

    def _add_objects(self, frame: int, prompts: Sequence[Prompt]) -> list[FrameObject]:
        texts = [each.text for each in prompts if each.text is not None]
        shown = [each for each in prompts if each.type != "text"]
        for index, each in enumerate(prompts):
            if each.points and each.box is None and not any(each.labels):
                raise InvalidParams(
                    f"prompts[{index}].point_labels: a new object needs a point on it"
                )
        if shown and len(self.objects) + len(shown) > self._max_objects:
            raise InvalidParams(f"prompts: a session tracks at most {self._max_objects} objects")
        seen = self._add_texts(frame, texts) if texts else []
        for each in shown:
            track = ObjectTrack(self._network, self._footage, self._features)
            frame_object = track.prompt(frame, _corners(each), each.points or (), each.labels)
            number = self._numbers.next()
            self._tracks[number] = track
            seen.append(frame_object._replace(number=number))
        return seen

    def _add_texts(self, frame: int, texts: Sequence[str]) -> list[FrameObject]:
        weights = self._network.texts
        if weights is None:
            raise InvalidParams("prompts: this model does not take text")
        tracks = self._texts or TextTracks(weights, self._network, self._footage, self._features)
        with prefix_errors("prompts"):
            wanted = tracks.add(texts)
        self._texts = tracks
        seen = tracks.step(frame)
        return self._numbers.assign(
            [each for each in seen if tracks.text_of(each.number) in wanted]
        )

    def _correct_object(self, frame: int, number: int, prompts: Sequence[Prompt]) -> FrameObject:
        boxes = [_corners(each) for each in prompts if each.box is not None]
        if any(each.type == "text" for each in prompts) or len(boxes) > 1:
            raise InvalidParams("prompts: points and at most one box correct an object")
        points = [point for each in prompts for point in each.points or ()]
        check_points(len(points), "prompts")
        track = self._tracks.get(number) or self._take_over(frame, number)
        labels = [label for each in prompts for label in each.labels]
        frame_object = track.prompt(frame, boxes[0] if boxes else (), points, labels)
        return frame_object._replace(number=number)

    def _take_over(self, frame: int, number: int) -> ObjectTrack:
        """Track an object found by a text as a separate track, from its mask on ``frame``."""
        tracks, found = self._text_object(number)
        logits = tracks.logits_on(found, frame)
        track = ObjectTrack(self._network, self._footage, self._features)
        if logits is not None and bool((logits > 0).any()):
            track.seed(frame, logits)
        tracks.hide(found)
        self._tracks[number] = track
        return track

    def _step(self, frame: int, *, reverse: bool, pinned: range) -> list[FrameObject]:
        with torch.inference_mode():
            seen = []
            if self._texts is not None:
                seen = self._numbers.assign(self._texts.step(frame, reverse=reverse, pinned=pinned))
            for number, track in self._tracks.items():
                frame_object = track.step(frame, reverse=reverse, pinned=pinned)
                if frame_object.mask.area:
                    seen.append(frame_object._replace(number=number))
        self._statistics.add_frame(frame)
        return sorted(seen, key=lambda each: each.number)

    def _text_objects(self) -> dict[int, int]:
        """Return the objects found by texts, as ``ObjectNumbers.track_numbers`` does."""
        return self._numbers.track_numbers([] if self._texts is None else self._texts.numbers)

    def _text_object(self, number: int) -> tuple[TextTracks, int]:
        found = self._text_objects().get(number)
        if found is None or self._texts is None:
            raise NotFound(f"Object {number} not found")
        return self._texts, found

    def _measure(self) -> None:
        held: list[Any] = [self._features.kept, [each.tensors() for each in self._tracks.values()]]
        if self._texts is not None:
            held.append(self._texts.tensors())
        shared, cached = self._network.pruner.positions, self._footage.cached_bytes
        self._statistics.measure(held, shared=shared, cached=cached)

    def _figures(self) -> SessionUsage:
        return self._statistics.figures(len(self.objects))


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


def _encode_objects(seen: Sequence[FrameObject], asked: str | None) -> list[Tracked]:
    """Return objects with encoded masks. Raises ``InvalidParams`` when they grow too large."""
    form: Any = asked or "rle"
    budget, told = ByteBudget(), []
    for each in seen:
        mask = each.mask.encode(form)
        budget.spend(bytes_of(mask))
        told.append(Tracked(each.number, mask, each.mask.box(), each.score))
    return told
