"""Networks on ONNX Runtime. Only ``load`` imports this module: the import starts threads."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as state

from mataserver import Unavailable, physical_cores
from mataserver_onnx.session import opset_too_new, runtime_failure

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mataserver_onnx.bundle import Bundle
    from mataserver_onnx.session import Arrays, SessionConfig

ERRORS: tuple[type[Exception], ...] = (
    state.EPFail,
    state.EngineError,
    state.Fail,
    state.InvalidArgument,
    state.InvalidGraph,
    state.InvalidProtobuf,
    state.NoModel,
    state.NoSuchFile,
    state.NotImplemented,
    state.RuntimeException,
    RuntimeError,
    ValueError,
)
"""The errors that it raises for a network that it cannot open or run."""

_CPU, _CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
_INDEXED = frozenset({_CUDA, "TensorrtExecutionProvider"})
"""The providers that take a device index."""
_FATAL = 4


class OnnxRuntimeSession:
    """A network on ONNX Runtime's execution providers."""

    batch_size: int | None = None

    def __init__(self, bundle: Bundle, outputs: Sequence[str], config: SessionConfig) -> None:
        """Open the network.

        Raises ``Unavailable`` for an unsupported provider or precision, and ``MataError`` for a
        network that cannot be opened.
        """
        if config.precision not in {"auto", "float32"}:
            raise Unavailable(
                "precision: ONNX Runtime computes in the number format of the file; "
                "the runtime openvino can choose"
            )
        onnxruntime.disable_telemetry_events()
        providers = choose_providers(config)
        self._config = config
        self._outputs = list(outputs)
        try:
            self._session: Any = onnxruntime.InferenceSession(
                str(bundle.network), sess_options=_options(config.threads), providers=providers
            )
        except ERRORS as error:
            if re.search(r"opset \d+ is under development", str(error), re.IGNORECASE):
                raise opset_too_new(bundle.graph.opset) from error
            raise runtime_failure(
                error, "the network cannot be opened by onnxruntime", config
            ) from error

    def run(self, feeds: Arrays) -> dict[str, Any]:
        """Compute the outputs. Raises ``MataError``."""
        try:
            values = self._session.run(self._outputs, dict(feeds))
        except ERRORS as error:
            raise runtime_failure(error, "the network has failed", self._config) from error
        return dict(zip(self._outputs, values, strict=True))

    def close(self) -> None:
        """Free the session."""
        self._session = None


def _options(threads: int) -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _FATAL  # errors are raised as well
    options.inter_op_num_threads = 1
    # Without a number it pins its threads to cores, which a worker may not be allowed to use.
    options.intra_op_num_threads = threads or physical_cores()
    # Threads that spin while they wait would take the cores from the other models.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def choose_providers(config: SessionConfig) -> list[Any]:
    """Return the execution providers with their options, the CPU's last.

    They are those of the settings, or else CUDA's where the device names it or there is one. Raises
    ``Unavailable`` for one that the installed ONNX Runtime does not have.
    """
    here = onnxruntime.get_available_providers()
    wanted = list(config.providers)
    if not wanted and config.device.startswith("cuda"):
        wanted = [_CUDA]
    if not wanted and config.device == "auto" and _CUDA in here:
        wanted = [_CUDA]
    missing = [name for name in wanted if name not in here]
    if missing:
        raise Unavailable(
            f"the installed onnxruntime has no {missing[0]}, only {', '.join(here)}"
            + (": install onnxruntime-gpu in its place" if missing[0] == _CUDA else "")
        )
    _, _, number = config.device.partition(":")
    chosen = [name for name in wanted if name != _CPU]
    numbered = [
        (name, {"device_id": number}) if number and name in _INDEXED else name for name in chosen
    ]
    return [*numbered, _CPU]
