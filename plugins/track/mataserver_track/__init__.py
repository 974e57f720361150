"""Object tracking: ByteTrack on the detections of any detector that the server serves."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mataserver import Backend, Part, hookimpl
from mataserver_track import tracker
from mataserver_track.options import Settings, TrackParams

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from mataserver import ModelFiles


def detector_of(files: ModelFiles, settings: Settings) -> Mapping[str, Part]:
    """Name the only part: the model itself, as served for the task ``detect``."""
    del settings  # the detector is always the requested model
    return {tracker.DETECTOR: Part(files.name, "detect")}


def accepts(files: ModelFiles) -> bool:
    """Accept every model: the server offers this backend only where the part is served too."""
    del files
    return True


@hookimpl
def settings() -> type[Settings]:
    """Return the type of ``plugins.track``."""
    return Settings


@hookimpl
def backends() -> Iterable[Backend]:
    """Return the backend ``track``."""
    return (
        Backend(
            name="track",
            task="track",
            source="any",
            load=tracker.load,
            params=TrackParams,
            accepts=accepts,
            requires=("trackers", "supervision"),
            packages=("trackers>=2.6,<3", "supervision>=0.31,<1", "opencv-python>=4.12,<5"),
            preload=("numpy", "cv2", "supervision", "trackers"),
            parts=detector_of,
        ),
    )
