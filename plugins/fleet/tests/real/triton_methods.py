"""What Triton's clients can ask, by what it is about."""

from __future__ import annotations

ABOUT_MODELS = {
    "is_model_ready", "get_model_metadata", "get_model_config", "get_inference_statistics",
}  # fmt: skip
OF_AN_APPLICATION = {"is_server_live", "is_server_ready", "get_server_metadata"}
ADMINISTRATION = {
    "load_model": ("adds",),
    "unload_model": ("adds",),
    "get_model_repository_index": (),
    "update_trace_settings": (),
    "get_trace_settings": (),
    "update_log_settings": ({"log_verbose_level": 1},),
    "get_log_settings": (),
    "get_system_shared_memory_status": (),
    "register_system_shared_memory": ("region", "/region", 8),
    "unregister_system_shared_memory": (),
    "get_cuda_shared_memory_status": (),
    "register_cuda_shared_memory": ("region", b"", 0, 8),
    "unregister_cuda_shared_memory": (),
}
"""What an application's consumer may not ask, with arguments."""
INFERENCE = {
    "infer", "async_infer", "start_stream", "stop_stream", "async_stream_infer", "stream_infer",
}  # fmt: skip
LOCAL = {"close", "generate_request_body", "parse_response_body"}
