"""Tracking: a detector, and a ByteTrack tracker per session.

ByteTrack (Zhang et al., "ByteTrack: Multi-Object Tracking by Associating Every Detection Box", ECCV
2022) matches the boxes of a frame with the boxes that a Kalman filter predicts for the known
tracks, those of high confidence first. The implementation is that of the library ``trackers``. It
uses boxes and confidences only, so it tracks any detector's objects.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import msgspec

from mataserver import DetectResult, InvalidParams, Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from mataserver import Detection, LoadContext, LoadedPart, ModelSpec
    from mataserver_track.options import Settings, TrackParams

    Image = NDArray[np.uint8]

DETECTOR = "detector"
SHOWN_LABELS = 10
"""How many of a detector's labels an error lists."""
BUFFERED_FRAMES_PER_SECOND = 30.0
"""The unit of the library's ``lost_track_buffer``, whatever the frame rate."""


def load(spec: ModelSpec, ctx: LoadContext) -> Tracker:
    """Create a tracker for the detector, which is loaded already as the part ``detector``.

    Raises ``Unavailable`` where OpenCV, which the library imports, cannot be imported.
    """
    try:
        import trackers
    except ImportError as error:
        ctx.log.exception("trackers cannot be imported")
        raise Unavailable(
            "The tracker's packages cannot be imported; where libGL is missing, put OpenCV's "
            "headless build in place: pip install --force-reinstall --no-deps "
            "'opencv-python-headless>=4.12,<5'"
        ) from error
    del trackers
    tracker = Tracker(ctx.parts[DETECTOR], ctx.settings)
    classes, labels = ctx.settings.classes, tracker.labels
    if classes and labels is not None and not set(classes) & set(labels):
        ctx.log.warning("%s has none of the labels in plugins.track.classes", spec.name)
    return tracker


class Tracker:
    """Detects objects, and gives each a ``track_id`` that stays the same from frame to frame.

    ``clock`` returns seconds and is monotonic.
    """

    def __init__(
        self,
        detector: LoadedPart,
        settings: Settings,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._detector = detector
        self._settings = settings
        self._clock = clock

    @property
    def labels(self) -> list[str] | None:
        """The detector's labels, if it states them."""
        return self._detector.labels

    @property
    def input_size(self) -> tuple[int, int] | None:
        """The ``(height, width)`` that the detector resizes images to, if it states it."""
        return getattr(self._detector.model, "input_size", None)

    def predict(self, images: Sequence[Image], params: Sequence[TrackParams]) -> list[DetectResult]:
        """Return the result of a new tracker for each image alone.

        One frame confirms no track, so the tracker gets it twice: every detection that begins a
        track has an id, counted from 1, and the others are left out.
        """
        found = self.detect(images, params)
        return [
            _reported(
                each, _Association(self._settings, confirm_late=False).single_frame_ids(each), given
            )
            for each, given in zip(found, params, strict=True)
        ]

    def session(self, params: TrackParams) -> Session:
        """Return a tracker for one stream; trackers are never shared.

        Raises ``InvalidParams`` as ``detect`` does.
        """
        self._check_classes(params)
        timing = params.timing or self._settings.timing
        clock = self._clock if timing == "arrival" else None
        return Session(self, _Association(self._settings), params, clock)

    def detect(
        self, images: Sequence[Image], params: Sequence[TrackParams]
    ) -> list[list[Detection]]:
        """Return the detections of each image that the tracker uses.

        The detector gets a low threshold, and the prompts if it takes any. Raises ``InvalidParams``
        for a missing parameter that the detector needs, and for classes that it does not know.
        """
        for each in params:
            self._check_classes(each)
        threshold = self._settings.detector_confidence
        wanted = [
            self._detector.params_with(confidence=threshold, prompts=each.prompts)
            for each in params
        ]
        results: Sequence[Any] = self._detector.model.predict(images, wanted)
        return [
            [each for each in result.detections if self._is_tracked(each, given)]
            for result, given in zip(results, params, strict=True)
        ]

    def _check_classes(self, params: TrackParams) -> None:
        """Raise ``InvalidParams`` for a class that the detector never finds: a misspelt one.

        The setting is for all detectors, and none of them needs to know every class.
        """
        labels = self.labels
        if labels is None:
            return
        for name in params.classes or ():
            if name not in labels:
                known = ", ".join(labels[:SHOWN_LABELS])
                more = ", …" if len(labels) > SHOWN_LABELS else ""
                raise InvalidParams(
                    f"params.classes: the detector has no label {name!r}; it has {known}{more}"
                )

    def _is_tracked(self, detection: Detection, params: TrackParams) -> bool:
        classes = self._settings.classes if params.classes is None else params.classes
        return classes is None or detection.label in classes


class Session:
    """The tracks of one stream. ``clock`` None counts frames instead of seconds."""

    def __init__(
        self,
        tracker: Tracker,
        association: _Association,
        params: TrackParams,
        clock: Callable[[], float] | None,
    ) -> None:
        self._tracker = tracker
        self._association = association
        self._params = params
        self._clock = clock
        self._size: tuple[int, int] | None = None  # of the first frame

    def step(self, image: Image) -> DetectResult:
        """Return the confirmed tracks visible in the next frame ``[H, W, 3]``.

        Boxes, labels and confidences are the detector's of this very frame, in its order; a track
        that is not detected now is not reported, and keeps its id if it is detected again in time.
        The tracker compares boxes in the first frame's pixels: the size of frames may change with
        the sender's, or with how far the server reduced one.
        """
        arrived = None if self._clock is None else self._clock()
        [found] = self._tracker.detect([image], [self._params])
        height, width = image.shape[:2]
        first_height, first_width = self._size = self._size or (height, width)
        scale = (first_width / width, first_height / height)
        return _reported(found, self._association.ids(found, arrived, scale), self._params)


class _Association:
    """A ByteTrack tracker: assigns detections to tracks.

    ``confirm_late`` False confirms a track the second time it is seen, whatever the settings are.
    """

    def __init__(self, settings: Settings, *, confirm_late: bool = True) -> None:
        from trackers import ByteTrackTracker

        from mataserver_track.overlap import StrictWhereWeak

        self._overlap = StrictWhereWeak(settings.weak_iou_threshold)
        self._bytetrack = ByteTrackTracker(
            lost_track_buffer=settings.lost_track_buffer,
            frame_rate=settings.frame_rate,
            track_activation_threshold=settings.track_activation_threshold,
            minimum_consecutive_frames=settings.minimum_consecutive_frames if confirm_late else 1,
            minimum_iou_threshold=settings.minimum_iou_threshold,
            high_conf_det_threshold=settings.high_conf_det_threshold,
            iou=self._overlap,
        )
        # The library drops a track that old before it matches the frame, even when no frame came
        # in between: a slow stream would never have a track.
        self._longest_gap = 0.99 * settings.lost_track_buffer / BUFFERED_FRAMES_PER_SECOND
        self._last: float | None = None
        self._skipped = 0.0

    def ids(
        self,
        detections: Sequence[Detection],
        seconds: float | None,
        scale: tuple[float, float] = (1.0, 1.0),
    ) -> list[int]:
        """Return the id of each detection's track, from 1; 0 without a confirmed track.

        ``seconds`` is when the frame arrived, None for one nominal frame after the last; ``scale``
        are the factors from the boxes' x and y to those of earlier frames.
        """
        import numpy as np
        import supervision

        boxes = supervision.Detections(
            xyxy=np.array([each.bbox for each in detections], np.float64).reshape(-1, 4)
            * (scale * 2),
            confidence=np.array([each.confidence for each in detections], np.float64),
            class_id=np.arange(len(detections)),  # not a class: identifies the detection
        )
        self._overlap.begin_frame()
        tracked = self._bytetrack.update(boxes, timestamp=self._time(seconds))
        ids = [0] * len(detections)
        if tracked.class_id is not None and tracked.tracker_id is not None:
            for place, number in zip(tracked.class_id, tracked.tracker_id, strict=True):
                ids[place] = int(number) + 1
        return ids

    def single_frame_ids(self, detections: Sequence[Detection]) -> list[int]:
        """Return the ids of a single frame: those that it gets when it is seen a second time."""
        self.ids(detections, None)
        return self.ids(detections, None)

    def _time(self, seconds: float | None) -> float | None:
        """Return the time on the tracker's clock, which stops in a gap longer than its memory."""
        if seconds is None:
            return None
        gap = 0.0 if self._last is None else seconds - self._last
        self._skipped += max(0.0, gap - self._longest_gap)
        self._last = seconds
        return seconds - self._skipped


def _reported(
    detections: Sequence[Detection], ids: Sequence[int], params: TrackParams
) -> DetectResult:
    return DetectResult(
        [
            msgspec.structs.replace(detection, track_id=number)
            for detection, number in zip(detections, ids, strict=True)
            if number and detection.confidence >= params.confidence
        ]
    )
