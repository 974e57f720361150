"""The settings of the plugin, and the parameters of a request or a session."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from msgspec import Meta, Struct

from mataserver import Confidence, Params, Text

if TYPE_CHECKING:
    from collections.abc import Mapping

Timing = Literal["arrival", "frames"]
Classes = Annotated[list[Text], Meta(min_length=1, max_length=1_024)]
Frames = Annotated[int, Meta(ge=1, le=100_000)]


class Settings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``plugins.track``: what the tracker is given, and how it follows.

    The names after the first four are those of ``trackers.ByteTrackTracker``, which explains them
    at length. Confidences and overlaps lie in 0..1.

    detector_confidence: threshold of the detector. Low on purpose: ByteTrack follows hidden objects
                         by boxes that are too weak to begin a track with.
    classes:             the only labels that are tracked; None tracks all.
    timing:              "arrival" measures the time between frames, so that dropped frames do no
                         harm; "frames" counts every frame as 1 / ``frame_rate`` s, for files.
    weak_iou_threshold:  overlap that a box below ``high_conf_det_threshold`` needs at least: 0.5 as
                         in the code of ByteTrack's authors, since weak boxes are often false.
    lost_track_buffer:   how long an object that is not seen keeps its id, in frames of 1/30 s.
    frame_rate:          frames a second that the motion model is tuned to.
    track_activation_threshold: confidence that begins a track.
    minimum_consecutive_frames: frames in a row until a track is confirmed and has an id.
    minimum_iou_threshold:      overlap of a box with the predicted one that makes them the same.
    high_conf_det_threshold:    confidence of the boxes that are matched first.
    """

    detector_confidence: Confidence = 0.1
    classes: Classes | None = None
    timing: Timing = "arrival"
    weak_iou_threshold: Confidence = 0.5
    lost_track_buffer: Frames = 30
    frame_rate: Annotated[float, Meta(ge=0.01, le=1_000.0)] = 30.0
    track_activation_threshold: Confidence = 0.7
    minimum_consecutive_frames: Frames = 2
    minimum_iou_threshold: Confidence = 0.1
    high_conf_det_threshold: Confidence = 0.6


class TrackParams(Params, frozen=True, kw_only=True):
    """Parameters of one request, or of one session for all its frames.

    confidence: the least confidence (0 to 1) that is reported; the tracker sees the rest as well.
    prompts:    for detectors that take text prompts.
    classes:    in place of the setting ``classes``.
    timing:     in place of the setting ``timing``.
    """

    confidence: Confidence = 0.0
    prompts: list[Text] | None = None
    classes: Classes | None = None
    timing: Timing | None = None

    def of_parts(self) -> Mapping[str, Mapping[str, Any]]:
        """Return the detector's parameters: it may need prompts."""
        return {"detector": {"confidence": self.confidence, "prompts": self.prompts}}
