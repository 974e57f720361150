"""The settings of the plugin: ``plugins.sam`` in the configuration."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

Name = Annotated[str, Meta(min_length=1, max_length=512)]
Count = Annotated[int, Meta(gt=0, le=1_000_000)]
Megabytes = Annotated[float, Meta(gt=0.0, le=1_048_576.0)]
CacheMegabytes = Annotated[float, Meta(ge=0.0, le=1_048_576.0)]
Seconds = Annotated[float, Meta(gt=0.0, le=86_400.0)]


class Settings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``plugins.sam``. Megabytes are 1e6 bytes, times are seconds.

    model:                  the model behind ``/api/v1``: a registered name, or a directory with a
                            checkpoint. Empty: those routes answer 503. Also ``SAM3_CHECKPOINT``.
    device:                 where every model of this plugin runs: "auto", "cpu", "cuda" or
                            "cuda:N"; empty leaves it to the model's own and the server's setting.
                            Also ``IMAGE_MODEL_DEVICE``.
    mask_format:            how masks are told unless a request says otherwise.
    feature_cache_mb:       features of images that are kept, in the memory of the device.
    text_cache_mb:          features of texts that are kept.
    image_cache_mb:         encoded images that are kept to be asked about by ``image_id``.
    image_ttl_s:            how long such an image is kept after its last use.
    visualization_cache_mb: drawn pictures that are kept.
    visualization_ttl_s:    how long a drawn picture is kept.
    segmenter:              the registered SAM that outlines what Grounding DINO finds.
    video_enabled:          whether ``/api/v1/video`` is served. Also ``VIDEO_MODEL_ENABLED``.
    max_sessions:           video sessions that may exist at once. Also
                            ``MAX_CONCURRENT_SESSIONS``.
    session_ttl_s:          a video session that nobody used for so long is closed.
    video_roots:            directories under which ``video_path`` may lie; none: it is refused.
    allow_private_addresses: whether ``video_url`` may lead to loopback, private and link-local
                            addresses.
    max_video_mb:           the largest video file that is downloaded or decoded from base64.
    max_video_seconds:      the longest video.
    max_frames:             the most frames of a video.
    download_timeout_s:     how long a download of ``video_url`` may take.
    frame_cache_mb:         prepared frames that one session keeps.
    max_objects:            the most objects that a session tracks for texts, and for other prompts.
    """

    model: Annotated[str, Meta(max_length=4_096, extra={"environment": "SAM3_CHECKPOINT"})] = ""
    device: Annotated[
        str,
        Meta(
            pattern=r"^(auto|cpu|cuda(:\d+)?)?\Z",
            description="auto, cpu, cuda, cuda:N or nothing",
            extra={"environment": "IMAGE_MODEL_DEVICE"},
        ),
    ] = ""
    mask_format: Literal["rle", "coco", "png", "polygon"] = "rle"
    feature_cache_mb: CacheMegabytes = 512.0
    text_cache_mb: CacheMegabytes = 16.0
    image_cache_mb: CacheMegabytes = 64.0
    image_ttl_s: Seconds = 600.0
    visualization_cache_mb: CacheMegabytes = 64.0
    visualization_ttl_s: Seconds = 600.0
    segmenter: Name = "facebook/sam2.1-hiera-small"
    video_enabled: Annotated[bool, Meta(extra={"environment": "VIDEO_MODEL_ENABLED"})] = True
    max_sessions: Annotated[
        int, Meta(gt=0, le=1_000_000, extra={"environment": "MAX_CONCURRENT_SESSIONS"})
    ] = 10
    session_ttl_s: Seconds = 1800.0
    video_roots: list[str] = []
    allow_private_addresses: bool = False
    max_video_mb: Megabytes = 512.0
    max_video_seconds: Annotated[float, Meta(gt=0.0, le=1_000_000.0)] = 3600.0
    max_frames: Count = 100_000
    download_timeout_s: Seconds = 120.0
    frame_cache_mb: Megabytes = 64.0
    max_objects: Count = 64
