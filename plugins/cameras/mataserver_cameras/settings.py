"""The settings of ``plugins.cameras``: what the server reads, and what clients may name."""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta, Struct

Name = Annotated[
    str,
    Meta(
        pattern=r"^(?!sess_)[A-Za-z0-9][A-Za-z0-9_-]{0,63}\Z",
        description="1 to 64 letters, digits, '_' and '-', not beginning with _, - or sess_",
    ),
]
Address = Annotated[str, Meta(min_length=1, max_length=2048)]
Rate = Annotated[float, Meta(gt=0.0, le=1_000.0)]
ModelName = Annotated[str, Meta(min_length=1, max_length=512)]
Host = Annotated[
    str,
    Meta(
        pattern=r"^[A-Za-z0-9._:-]+(/\d{1,3})?\Z",
        description="a host's name, an address or a network such as 10.0.0.0/8",
        max_length=255,
    ),
]
AbsolutePath = Annotated[
    str, Meta(pattern=r"^/", description="a path that begins with /", max_length=4096)
]
Hosts = Annotated[list[Host], Meta(extra={"environment": "MATA_SERVER_CAMERA_HOSTS"})]
Paths = Annotated[list[AbsolutePath], Meta(extra={"environment": "MATA_SERVER_CAMERA_PATHS"})]
Timeout = Annotated[
    float, Meta(gt=0.0, le=86_400.0, extra={"environment": "MATA_SERVER_CAMERA_TIMEOUT"})
]


class CameraSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One entry of ``cameras``: a camera whose session begins with the server and never expires.

    name:   the session's id.
    source: an RTSP or HTTP URL, an absolute path of a video file, or ``/dev/videoN``.
    model:  a registered model.
    task:   its own task, or ``track`` for a detector.
    params: inference parameters for every frame.
    fps:    at most so many frames a second are inferred.
    always: infer also while nobody looks.
    """

    name: Name
    source: Address
    model: ModelName
    task: str | None = None
    params: dict[str, Any] = {}
    fps: Rate | None = None
    always: bool = False


class Settings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is read; each but ``cameras`` may come from a variable.

    cameras:        those that the server reads from its start on.
    camera_hosts:   hosts that a client may name: names, addresses, networks.
    camera_paths:   files, folders of them and devices that a client may name.
    camera_timeout: seconds after which a camera that gives no frame is connected anew.
    """

    cameras: list[CameraSettings] = []
    camera_hosts: Hosts = []
    camera_paths: Paths = []
    camera_timeout: Timeout = 10.0
