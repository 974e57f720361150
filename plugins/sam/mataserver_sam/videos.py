"""The video sessions of one loaded model, by id."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from mataserver import Conflict, InvalidParams, NotFound
from mataserver_sam.footage import Footage
from mataserver_sam.limits import Limits
from mataserver_sam.network import Network
from mataserver_sam.video import Video

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mataserver_sam.settings import Settings
    from mataserver_sam.video_requests import (
        AnnotatedVideoRequest,
        PromptRequest,
        PromptResult,
        PropagateRequest,
        SessionUsage,
        Step,
        VideoInfo,
    )
    from mataserver_sam.weights import PointWeights, Weights


class Videos:
    """Opens, finds and closes sessions. Raises ``NotFound`` for an unknown id.

    ``weights`` may be of a model without videos: then ``open`` raises ``Unavailable``. Frames have
    at most ``max_pixels``, and take at most ``decode_timeout`` seconds.
    """

    def __init__(
        self,
        weights: Weights | PointWeights,
        settings: Settings,
        max_pixels: int = 50_000_000,
        decode_timeout: float = 10.0,
    ) -> None:
        self._weights = weights
        self._settings = settings
        self._limits = Limits(
            settings.max_frames, settings.max_video_seconds, max_pixels, decode_timeout
        )
        self._open: dict[str, Video] = {}
        self._network: Network | None = None

    @property
    def supports_video(self) -> bool:
        """Whether the model supports videos."""
        return self._weights.video is not None

    def open(self, session: str, path: str, gpu_ids: Sequence[int] = ()) -> VideoInfo:
        """Open the video in the file ``path``; the file may be deleted afterwards.

        Raises ``BadRequest`` for a file that is not a video or exceeds the limits,
        ``InvalidParams`` for GPUs that do not exist or that the model is not on.
        """
        if session in self._open:
            raise Conflict(f"Session {_name(session)} exists already")
        network, settings = self._get_network(), self._settings
        _check_gpus(network.device, gpu_ids)
        footage = Footage(Path(path), network, settings.frame_cache_mb * 1e6, self._limits)
        self._open[session] = Video(network, footage, settings.max_objects)
        return self._open[session].info

    def prompt(self, session: str, asked: PromptRequest) -> tuple[PromptResult, SessionUsage]:
        """Add prompts; see ``Video.prompt``."""
        video = self._find(session)
        return video.prompt(asked), video.figures()

    def propagate(self, session: str, asked: PropagateRequest) -> Iterator[Step]:
        """Track from frame to frame; see ``Video.propagate``."""
        yield from self._find(session).propagate(asked)

    def picture(self, session: str, frame: int) -> bytes:
        """Return a frame as a JPEG; see ``Video.picture``."""
        return self._find(session).picture(frame)

    def annotated_video(self, session: str, asked: AnnotatedVideoRequest) -> Iterator[bytes]:
        """Draw a video with the tracked objects; see ``Video.annotated_video``."""
        yield from self._find(session).annotated_video(asked)

    def remove(self, session: str, number: int) -> SessionUsage:
        """Remove an object."""
        video = self._find(session)
        video.remove(number)
        return video.figures()

    def reset(self, session: str) -> tuple[int, SessionUsage]:
        """Restart; return how many objects there were."""
        video = self._find(session)
        return video.reset(), video.figures()

    def figures(self, session: str) -> SessionUsage:
        """Measure and return the figures."""
        return self._find(session).figures()

    def close(self, session: str) -> int:
        """Close a session; return the bytes that it held."""
        video = self._find(session)
        held = video.figures().total_bytes
        del self._open[session]
        video.close()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return held

    def close_all(self) -> None:
        """Close every session."""
        for session in list(self._open):
            self.close(session)

    def _get_network(self) -> Network:
        if self._network is None:
            self._network = Network.of(self._weights)
            texts = self._network.texts
            if texts is not None:
                most = min(texts.video.max_num_objects, self._settings.max_objects)
                texts.video.max_num_objects = most
        return self._network

    def _find(self, session: str) -> Video:
        video = self._open.get(session)
        if video is None:
            raise NotFound(f"Session {_name(session)} not found")
        return video


def _name(session: str) -> str:
    """Return the name that a client knows: an id may have its owner before it."""
    return session.rpartition("/")[2]


def _check_gpus(device: torch.device, asked: Sequence[int]) -> None:
    if not asked:
        return
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    for each in asked:
        if each >= count:
            raise InvalidParams(f"gpu_ids: there is no GPU {each}, this machine has {count}")
    own = device.index or 0
    if device.type != "cuda":
        raise InvalidParams("gpu_ids: the model is not on a GPU")
    if own not in asked:
        raise InvalidParams(f"gpu_ids: the model is on GPU {own}")
