"""mataserver: serve computer vision models over REST and WebSocket.

This module is the plugin API; a plugin imports from here and from nowhere below.
"""

from mataserver.contract import (
    Backend,
    Context,
    LoadContext,
    LoadedPart,
    Model,
    ModelFiles,
    ModelHandle,
    ModelSpec,
    Part,
    Service,
)
from mataserver.errors import (
    BadRequest,
    Conflict,
    InvalidParams,
    MataError,
    NotFound,
    OutOfMemory,
    Unavailable,
)
from mataserver.hookspecs import hookimpl
from mataserver.params import Confidence, MaxTokens, Params, Temperature, Text, TopK
from mataserver.results import (
    Box,
    Classification,
    ClassifyResult,
    DepthResult,
    Detection,
    DetectResult,
    EmbedResult,
    Entity,
    Keypoint,
    OcrResult,
    PoseResult,
    Result,
    Segment,
    SegmentResult,
    TextRegion,
    VlmResult,
)

__version__ = "0.1.0"

__all__ = [
    "Backend",
    "BadRequest",
    "Box",
    "Classification",
    "ClassifyResult",
    "Confidence",
    "Conflict",
    "Context",
    "DepthResult",
    "DetectResult",
    "Detection",
    "EmbedResult",
    "Entity",
    "InvalidParams",
    "Keypoint",
    "LoadContext",
    "LoadedPart",
    "MataError",
    "MaxTokens",
    "Model",
    "ModelFiles",
    "ModelHandle",
    "ModelSpec",
    "NotFound",
    "OcrResult",
    "OutOfMemory",
    "Params",
    "Part",
    "PoseResult",
    "Result",
    "Segment",
    "SegmentResult",
    "Service",
    "Temperature",
    "Text",
    "TextRegion",
    "TopK",
    "Unavailable",
    "VlmResult",
    "hookimpl",
]
