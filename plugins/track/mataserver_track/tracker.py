"""Tracking: a detector, and a ByteTrack tracker per session.

ByteTrack (Zhang et al., "ByteTrack: Multi-Object Tracking by Associating Every Detection Box",
ECCV 2022) matches the boxes of a frame with the boxes that a Kalman filter predicts for the known
tracks, the sure ones first and then the weak ones. The implementation is that of the library
``trackers``. It looks at boxes and confidences alone, so it follows whatever a detector finds.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import msgspec

from mataserver import DetectResult, Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from mataserver import Detection, LoadContext, LoadedPart, ModelSpec
    from mataserver_track.options import Settings, TrackParams

    Image = NDArray[np.uint8]

DETECTOR = "detector"
BUFFERED_FRAMES_PER_SECOND = 30.0
"""What the library counts ``lost_track_buffer`` in, whatever the frame rate."""


def load(spec: ModelSpec, ctx: LoadContext) -> Tracker:
    """Put a tracker behind the detector, which is loaded already as the part ``detector``.

    Raises ``Unavailable`` where OpenCV, which the library imports, cannot be imported.
    """
    del spec  # the detector is the model
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
    return Tracker(ctx.parts[DETECTOR], ctx.settings)


class Tracker:
    """Detects, and gives what it finds a ``track_id`` that stays the same from frame to frame.

    ``clock`` returns seconds that never go back.
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
    def input_size(self) -> tuple[int, int] | None:
        """The ``(height, width)`` that the detector resizes images to, if it says so."""
        return getattr(self._detector.model, "input_size", None)

    def predict(self, images: Sequence[Image], params: Sequence[TrackParams]) -> list[DetectResult]:
        """Return what a fresh tracker makes of each image alone.

        One frame confirms no track, so the tracker is shown it twice: every detection that begins a
        track has an id, counted from 1, and the others are left out.
        """
        found = self.detect(images, params)
        return [
            _reported(each, _Association(self._settings, patient=False).still(each), given)
            for each, given in zip(found, params, strict=True)
        ]

    def session(self, params: TrackParams) -> Session:
        """Return a tracker for one stream; none is ever shared."""
        timing = params.timing or self._settings.timing
        clock = self._clock if timing == "arrival" else None
        return Session(self, _Association(self._settings), params, clock)

    def detect(
        self, images: Sequence[Image], params: Sequence[TrackParams]
    ) -> list[list[Detection]]:
        """Return the detections of each image that the tracker is to see.

        The detector is asked with a low threshold, and with the prompts if it takes any. Raises
        ``InvalidParams`` for a parameter that it needs and did not get.
        """
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

    def step(self, image: Image) -> DetectResult:
        """Return the confirmed tracks that the next frame ``[H, W, 3]`` shows.

        Boxes, labels and confidences are the detector's of this very frame, in its order; a track
        that it does not see now is not reported, and comes back under its id if it is seen in time.
        """
        arrived = None if self._clock is None else self._clock()
        [found] = self._tracker.detect([image], [self._params])
        return _reported(found, self._association.ids(found, arrived), self._params)


class _Association:
    """A ByteTrack tracker: which detections are which tracks.

    ``patient`` False confirms a track the second time it is seen, whatever the settings say.
    """

    def __init__(self, settings: Settings, *, patient: bool = True) -> None:
        from trackers import ByteTrackTracker

        self._bytetrack = ByteTrackTracker(
            lost_track_buffer=settings.lost_track_buffer,
            frame_rate=settings.frame_rate,
            track_activation_threshold=settings.track_activation_threshold,
            minimum_consecutive_frames=settings.minimum_consecutive_frames if patient else 1,
            minimum_iou_threshold=settings.minimum_iou_threshold,
            high_conf_det_threshold=settings.high_conf_det_threshold,
        )
        # The library forgets a track that old before it looks at the frame, also when there was no
        # frame in which it could have been seen: a slow stream would never have a track.
        self._longest_gap = 0.99 * settings.lost_track_buffer / BUFFERED_FRAMES_PER_SECOND
        self._last: float | None = None
        self._skipped = 0.0

    def ids(self, detections: Sequence[Detection], seconds: float | None) -> list[int]:
        """Return the id of each detection's track, from 1; 0 for what is no confirmed track.

        ``seconds`` is when the frame came, None for one nominal frame after the last.
        """
        import numpy as np
        import supervision

        boxes = supervision.Detections(
            xyxy=np.array([each.bbox for each in detections], np.float64).reshape(-1, 4),
            confidence=np.array([each.confidence for each in detections], np.float64),
            class_id=np.arange(len(detections)),  # not a class: it finds the detection again
        )
        tracked = self._bytetrack.update(boxes, timestamp=self._time(seconds))
        ids = [0] * len(detections)
        if tracked.class_id is not None and tracked.tracker_id is not None:
            for place, number in zip(tracked.class_id, tracked.tracker_id, strict=True):
                ids[place] = int(number) + 1
        return ids

    def still(self, detections: Sequence[Detection]) -> list[int]:
        """Return the ids of a single frame: those that it has when it is shown a second time."""
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
