"""The requests and answers of ``/api/v1/video``."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType
from msgspec.structs import force_setattr

from mataserver import InvalidParams, describe_error
from mataserver_sam.image_requests import GpuMemory, MaskFormat
from mataserver_sam.prompts import Prompts, Request

SessionId = Annotated[
    str,
    Meta(
        pattern=r"^(?!\.{1,2}\Z)[A-Za-z0-9_.-]{1,128}\Z",
        description="1 to 128 letters, digits, '_', '.' and '-', and not dots alone",
    ),
]
"""A path segment other than ``.`` and ``..``, which clients resolve before they send a request."""
Number = Annotated[int, Meta(ge=0, le=2**31 - 1)]
MOST_MARKED = 256
"""The maximum objects drawn on one frame: a frame is one step of the worker."""
Direction = Literal["forward", "backward", "both"]
Status = Literal["ready", "processing", "error", "closed"]
Box = tuple[float, float, float, float]
TRACKING = "video_tracking"
"""The capability of a model that supports video sessions."""
_SOURCES = ("video_url", "video_base64", "video_path")


class StartRequest(Request, frozen=True, kw_only=True):
    """``POST /api/v1/video/session/start``.

    video_url:    an http or https address to download from.
    video_base64: the file in base64, with or without ``data:video/...;base64,``.
    video_path:   a file on the server, under one of its ``video_roots``.
    session_id:   letters, digits, ``_``, ``.`` and ``-``; made up if left out.
    gpu_ids:      the GPUs to use; the model's must be among them.
    """

    video_url: Annotated[str, Meta(min_length=1, max_length=4_096)] | None = None
    video_base64: str | None = None
    video_path: Annotated[str, Meta(min_length=1, max_length=4_096)] | None = None
    session_id: SessionId | None = None
    gpu_ids: Annotated[list[Number], Meta(max_length=64)] | None = None

    def __post_init__(self) -> None:
        """Check that there is one video. Raises ``ValueError``."""
        given = [name for name in _SOURCES if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"give one of {', '.join(_SOURCES)}")
        if self.gpu_ids is not None and len(set(self.gpu_ids)) < len(self.gpu_ids):
            raise ValueError("gpu_ids names a GPU twice")


class UploadForm(Struct, frozen=True, kw_only=True):
    """The form of ``POST .../upload``: the video."""

    file: bytes


def session_id(given: str | None) -> str | None:
    """Return the id of a query. Raises ``InvalidParams`` for one that ``start`` would refuse."""
    try:
        return msgspec.convert(given, SessionId | None)
    except msgspec.ValidationError as error:
        raise InvalidParams(f"session_id: {describe_error(error, SessionId)}") from None


class PromptRequest(Request, frozen=True, kw_only=True):
    """``POST .../prompt``; ``obj_id`` names an object to correct, null begins new ones."""

    frame_index: Number
    prompts: Prompts
    obj_id: Number | None = None
    mask_format: MaskFormat | None = None


_EVERY_FRAME = 2**31
"""More frames than a video may have: what the worker gets must fit in 64 bits."""


class PropagateRequest(Request, frozen=True, kw_only=True):
    """``POST .../propagate``, and the message of a client of the WebSocket.

    ``max_frames`` are the most frames to visit in all, null for every one.
    """

    direction: Direction = "both"
    start_frame_index: Number = 0
    max_frames: Annotated[int, Meta(ge=1)] | None = None
    stream: bool = False
    mask_format: MaskFormat | None = None

    def __post_init__(self) -> None:
        if self.max_frames is not None and self.max_frames > _EVERY_FRAME:
            force_setattr(self, "max_frames", _EVERY_FRAME)


class DrawnObject(Struct, frozen=True, kw_only=True):
    """An object on a frame of a video that is to be drawn; ``mask`` is its ``rle``."""

    id: Number
    mask: str


class ObjectStyle(Struct, frozen=True, kw_only=True):
    """How an object is drawn: a name, its number if empty, and a colour, ``#rrggbb``."""

    name: Annotated[str, Meta(max_length=100)] = ""
    colour: (
        Annotated[str, Meta(pattern=r"^#[0-9a-fA-F]{6}\Z", description="a colour such as #33aaff")]
        | None
    ) = None


class AnnotatedVideoRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``POST .../video``: what was tracked, by frame, and how each object looks, by its id."""

    frames: dict[Number, Annotated[list[DrawnObject], Meta(max_length=MOST_MARKED)]]
    objects: dict[Number, ObjectStyle] = {}


class Resolution(Struct, frozen=True):
    """The size of the frames as they are shown."""

    width: int
    height: int


class VideoInfo(Struct, frozen=True):
    """What a video is: the frames that it holds, and how many of them a second on average."""

    total_frames: int
    fps: float
    resolution: Resolution
    duration_seconds: float


class Started(Struct, frozen=True):
    """The answer of ``start``."""

    session_id: str
    video_info: VideoInfo
    status: Status = "ready"


class SessionUsage(Struct, frozen=True):
    """What a session holds: objects, visited frames, and bytes on the GPU and in all.

    ``gpus`` is what the worker holds, with its other sessions and the model itself.
    """

    objects: int = 0
    frames_processed: int = 0
    gpu_bytes: int = 0
    total_bytes: int = 0
    gpus: GpuMemory = []


class PromptResult(Struct, frozen=True):
    """The answer of ``prompt``: an object, mask, box and score at each place of the lists."""

    frame_index: int
    obj_id: list[int]
    masks: list[Any]
    boxes: list[Box]
    scores: list[float]
    status: str = "prompt_added"


class Tracked(Struct, frozen=True):
    """One object on one frame; ``box`` is ``[cx, cy, w, h]`` in 0..1."""

    id: int
    mask: Any
    box: Box
    score: float


class Step(Struct, frozen=True):
    """One frame of a propagation, from worker to server; ``objects`` is a JSON array."""

    frame_index: int
    objects: bytes
    figures: SessionUsage
    damaged: bool = False


class FrameResult(Struct, frozen=True, omit_defaults=True):
    """One frame of ``propagate``; of a ``damaged`` one the objects are those of another frame."""

    frame_index: int
    objects: msgspec.Raw
    damaged: bool = False


class Propagated(Struct, frozen=True):
    """The answer of ``propagate``; ``stream_url`` says where to stream from, if that was asked."""

    session_id: str
    results: dict[str, FrameResult]
    total_frames: int
    processing_time_ms: float
    stream_url: str | UnsetType = UNSET


class FrameMessage(Struct, frozen=True, omit_defaults=True, tag_field="type", tag="frame"):
    """One frame on the WebSocket, as ``FrameResult``."""

    frame_index: int
    objects: msgspec.Raw
    damaged: bool = False


class CompleteMessage(Struct, frozen=True, tag_field="type", tag="complete"):
    """The end of a propagation on the WebSocket."""

    total_frames: int


class ErrorMessage(Struct, frozen=True, tag_field="type", tag="error"):
    """Why a propagation ended on the WebSocket."""

    error: str


class SessionStatus(Struct, frozen=True):
    """The answer of ``status``; a megabyte is 1e6 bytes."""

    session_id: str
    status: Status
    current_objects: int
    frames_processed: int
    total_frames: int
    gpu_memory_used_mb: float


class Removed(Struct, frozen=True):
    """The answer of a removed object."""

    session_id: str
    obj_id: int
    status: str = "removed"


class Reset(Struct, frozen=True):
    """The answer of ``reset``."""

    session_id: str
    status: str
    objects_cleared: int


class Closed(Struct, frozen=True):
    """The answer of a closed session."""

    session_id: str
    status: str
    memory_freed_mb: float


class SessionInfo(Struct, frozen=True):
    """One session of the list; ``created_at`` is ISO 8601 in UTC."""

    session_id: str
    type: str
    created_at: str
    status: Status
    objects_count: int


class Sessions(Struct, frozen=True):
    """The answer of ``sessions``."""

    sessions: list[SessionInfo]
    total_sessions: int
