"""The lazy half of the plugin API: where each name of the root is that is imported on demand."""

from __future__ import annotations

import importlib

_PACKAGES = {"av": "av>=18.1,<20", "grpc": "grpcio>=1.66"}
"""Modules that the core does not require, with what pip installs."""
LATE = {
    **dict.fromkeys(("connected", "server_options"), "mataserver.cli.remote"),
    "params_option": "mataserver.cli.parameters",
    "Client": "mataserver_client",
    **dict.fromkeys(
        ("Configuration", "RegisteredModel", "read_configuration"),
        "mataserver.library.configuration",
    ),
    "ConfigError": "mataserver.config",
    "LoopHistogram": "mataserver.metrics",
    "Needs": "mataserver.config.needs",
    "sync": "mataserver.config.storage",
    "JSON_LIMIT": "mataserver.http.json_body:MAX_STRUCTURE_BYTES",
    **dict.fromkeys(
        ("Assignment", "Engine", "Placement", "Worker"),
        "mataserver.engines.work",
    ),
    **dict.fromkeys(("JobFailed", "NodeDied", "WorkerDied"), "mataserver.engines.worker_errors"),
    "RemoteWorker": "mataserver.engines.remote_worker",
    "has_gpu_driver": "mataserver.engines.memory",
    "repository_directory": "mataserver.sources.cache",
    "run_worker": "mataserver.engines.worker_main:main",
    **dict.fromkeys(("check_charset", "content_type"), "mataserver.http.codec"),
    "check_checkpoint": "mataserver.sources.foreign_parts:check_parts",
    "check_model_files": "mataserver.sources.links:check_links",
    "check_json": "mataserver.http.json_body:check",
    "convert_json": "mataserver.http.json_body:convert",
    "decode_base64": "mataserver.http.data_uri:decode",
    "decode_json": "mataserver.http.json_body:decode",
    "describe_error": "mataserver.http.json_body:describe_error",
    "EXAMPLE_IMAGE": "mataserver.http.examples:PICTURE",
    "physical_cores": "mataserver.cores",
    "plain_call_problem": "mataserver.signatures",
    "PRINCIPAL": "mataserver.http.auth",
    **dict.fromkeys(("check_query", "sole_value"), "mataserver.http.request_credentials"),
    **dict.fromkeys(("CONTROLS", "printable"), "mataserver.printing"),
    "SocketRelay": "mataserver.http.relay_sockets",
    "WholeAnswer": "mataserver.http.protocol:CompleteResponse",
    "RpcPort": "mataserver.contract.rpc",
    "StopSequences": "mataserver.stop_sequences",
    **dict.fromkeys(("AddressRefused", "Policy"), "mataserver.outbound"),
    "static": "mataserver.http.files",
    "Parent": "mataserver.processes.child_main",
    "wait_out": "mataserver.finishing",
    "UnreadableVideo": "mataserver.media.videos",
    "encode_frame": "mataserver.media.videos:encode",
    "open_video": "mataserver.media.videos",
    "PendingFrame": "mataserver.media.videos",
    "read_live_video": "mataserver.media.videos:live_frames",
    "read_video": "mataserver.media.videos:frames",
    "WholeFrames": "mataserver.media.whole_frames",
    "timed_frames": "mataserver.media.frame_times:timed",
    "video_problem": "mataserver.media.videos:reason",
    "video_stream": "mataserver.media.videos:best",
    **dict.fromkeys(
        (
            "Child",
            "build_environment",
            "read_tail",
            "run_process",
            "spawn_command",
            "target_command",
        ),
        "mataserver.processes.child",
    ),
}
"""Names whose modules import asyncio, aiohttp or more settings: imported lazily, as workers and
most commands do not need them.

Each with its module, and after a colon its name there, if different.
"""


def load(name: str) -> object:
    """Return what ``mataserver.NAME`` is; its module is imported.

    Raises ``ModuleNotFoundError``, with the pip command for a package that is not required.
    """
    module, _, attribute = LATE[name].partition(":")
    try:
        return getattr(importlib.import_module(module), attribute or name)
    except ModuleNotFoundError as error:
        if error.name not in _PACKAGES:
            raise
        needed = f"mataserver.{name} needs a package: pip install '{_PACKAGES[error.name]}'"
        raise ModuleNotFoundError(needed, name=error.name) from None
