"""mataserver: serve computer vision models over REST and WebSocket.

This module is the plugin API: plugins import from here only, not from submodules.
"""

from typing import TYPE_CHECKING

from mataserver.contract.authentication import AuthContext
from mataserver.contract.backend import (
    Backend,
    LoadContext,
    LoadedPart,
    Model,
    ModelFiles,
    ModelSpec,
    Part,
)
from mataserver.contract.bodies import Form, Saved, Share, Upload, Uploads
from mataserver.contract.claims import (
    BodySink,
    PlainAnswer,
    Reading,
    RepeatedClaim,
    Responder,
    Unfinished,
)
from mataserver.contract.engine import EngineContext, EngineSpec
from mataserver.contract.handles import Encoded, ModelHandle, Models, ModelSession, ResultEvent
from mataserver.contract.hookspecs import hookimpl
from mataserver.contract.routes import Body, LastEvent, Page, Route
from mataserver.contract.service import Context, Server, Service
from mataserver.contract.sessions import (
    CameraInfo,
    CheckSession,
    Sessions,
    SessionSource,
    SourceFrame,
    StreamSession,
)
from mataserver.contract.source import SourceContext, SourceSpec
from mataserver.errors import (
    BadRequest,
    Conflict,
    InvalidParams,
    MataError,
    NotFound,
    OutOfMemory,
    TooLarge,
    TooSlow,
    Unavailable,
    shortage_error,
)
from mataserver.late_names import LATE as _LATE
from mataserver.late_names import load as _load_late
from mataserver.params.table import Confidence, MaxTokens, Params, Temperature, Text, TopK
from mataserver.pixels import decode_image, draw, upright_frame
from mataserver.principals import ANYBODY, ROLES, SCOPES, Credentials, Principal
from mataserver.results import (
    Box,
    Classification,
    ClassifyResult,
    DepthResult,
    Detection,
    DetectResult,
    EmbedResult,
    Entity,
    InferResponse,
    Keypoint,
    ModelInfo,
    OcrResult,
    PoseResult,
    Result,
    Segment,
    SegmentResult,
    TextRegion,
    Usage,
    VlmResult,
)

__version__ = "0.1.0"

__all__ = [
    "ANYBODY",
    "CONTROLS",
    "EXAMPLE_IMAGE",
    "JSON_LIMIT",
    "PRINCIPAL",
    "ROLES",
    "SCOPES",
    "AddressRefused",
    "Assignment",
    "AuthContext",
    "Backend",
    "BadRequest",
    "Body",
    "BodySink",
    "Box",
    "CameraInfo",
    "CheckSession",
    "Child",
    "Classification",
    "ClassifyResult",
    "Client",
    "Confidence",
    "ConfigError",
    "Configuration",
    "Conflict",
    "Context",
    "Credentials",
    "DepthResult",
    "DetectResult",
    "Detection",
    "EmbedResult",
    "Encoded",
    "Engine",
    "EngineContext",
    "EngineSpec",
    "Entity",
    "Form",
    "InferResponse",
    "InvalidParams",
    "JobFailed",
    "Keypoint",
    "LastEvent",
    "LoadContext",
    "LoadedPart",
    "LoopHistogram",
    "MataError",
    "MaxTokens",
    "Model",
    "ModelFiles",
    "ModelHandle",
    "ModelInfo",
    "ModelSession",
    "ModelSpec",
    "Models",
    "Needs",
    "NodeDied",
    "NotFound",
    "OcrResult",
    "OutOfMemory",
    "Page",
    "Params",
    "Parent",
    "Part",
    "PendingFrame",
    "Placement",
    "PlainAnswer",
    "Policy",
    "PoseResult",
    "Principal",
    "Reading",
    "RegisteredModel",
    "RemoteWorker",
    "RepeatedClaim",
    "Responder",
    "Result",
    "ResultEvent",
    "Route",
    "RpcPort",
    "Saved",
    "Segment",
    "SegmentResult",
    "Server",
    "Service",
    "SessionSource",
    "Sessions",
    "Share",
    "SocketRelay",
    "SourceContext",
    "SourceFrame",
    "SourceSpec",
    "StopSequences",
    "StreamSession",
    "Temperature",
    "Text",
    "TextRegion",
    "TooLarge",
    "TooSlow",
    "TopK",
    "Unavailable",
    "Unfinished",
    "UnreadableVideo",
    "Upload",
    "Uploads",
    "Usage",
    "VlmResult",
    "WholeAnswer",
    "WholeFrames",
    "Worker",
    "WorkerDied",
    "build_environment",
    "check_charset",
    "check_checkpoint",
    "check_json",
    "check_model_files",
    "check_query",
    "connected",
    "content_type",
    "convert_json",
    "decode_base64",
    "decode_image",
    "decode_json",
    "describe_error",
    "draw",
    "encode_frame",
    "has_gpu_driver",
    "hookimpl",
    "open_video",
    "params_option",
    "physical_cores",
    "plain_call_problem",
    "printable",
    "read_configuration",
    "read_live_video",
    "read_tail",
    "read_video",
    "repository_directory",
    "run_process",
    "run_worker",
    "server_options",
    "shortage_error",
    "sole_value",
    "spawn_command",
    "static",
    "sync",
    "target_command",
    "timed_frames",
    "upright_frame",
    "video_problem",
    "video_stream",
    "wait_out",
]

if TYPE_CHECKING:
    from mataserver.cli.parameters import params_option
    from mataserver.cli.remote import connected, server_options
    from mataserver.config import ConfigError
    from mataserver.config.needs import Needs
    from mataserver.config.storage import sync
    from mataserver.contract.rpc import RpcPort
    from mataserver.cores import physical_cores
    from mataserver.engines.memory import has_gpu_driver
    from mataserver.engines.remote_worker import RemoteWorker
    from mataserver.engines.work import Assignment, Engine, Placement, Worker
    from mataserver.engines.worker_errors import JobFailed, NodeDied, WorkerDied
    from mataserver.engines.worker_main import main as run_worker
    from mataserver.finishing import wait_out
    from mataserver.http.auth import PRINCIPAL
    from mataserver.http.codec import check_charset, content_type
    from mataserver.http.data_uri import decode as decode_base64
    from mataserver.http.examples import PICTURE as EXAMPLE_IMAGE
    from mataserver.http.files import static
    from mataserver.http.json_body import MAX_STRUCTURE_BYTES as JSON_LIMIT
    from mataserver.http.json_body import check as check_json
    from mataserver.http.json_body import convert as convert_json
    from mataserver.http.json_body import decode as decode_json
    from mataserver.http.json_body import describe_error as describe_error
    from mataserver.http.protocol import CompleteResponse as WholeAnswer
    from mataserver.http.relay_sockets import SocketRelay
    from mataserver.http.request_credentials import check_query, sole_value
    from mataserver.library.configuration import Configuration, RegisteredModel, read_configuration
    from mataserver.media.frame_times import timed as timed_frames
    from mataserver.media.videos import PendingFrame, UnreadableVideo, open_video
    from mataserver.media.videos import best as video_stream
    from mataserver.media.videos import encode as encode_frame
    from mataserver.media.videos import frames as read_video
    from mataserver.media.videos import live_frames as read_live_video
    from mataserver.media.videos import reason as video_problem
    from mataserver.media.whole_frames import WholeFrames
    from mataserver.metrics import LoopHistogram
    from mataserver.outbound import AddressRefused, Policy
    from mataserver.printing import CONTROLS, printable
    from mataserver.processes.child import (
        Child,
        build_environment,
        read_tail,
        run_process,
        spawn_command,
        target_command,
    )
    from mataserver.processes.child_main import Parent
    from mataserver.signatures import plain_call_problem
    from mataserver.sources.cache import repository_directory
    from mataserver.sources.foreign_parts import check_parts as check_checkpoint
    from mataserver.sources.links import check_links as check_model_files
    from mataserver.stop_sequences import StopSequences
    from mataserver_client import Client


def __dir__() -> list[str]:
    return [*globals(), *_LATE]


def __getattr__(name: str) -> object:
    if name in _LATE:
        return _load_late(name)
    raise AttributeError(f"module 'mataserver' has no attribute {name!r}")
