"""Opens a network on the runtime that the settings name."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mataserver_onnx.bundle import Bundle
    from mataserver_onnx.session import Session, SessionConfig


def open_session(
    bundle: Bundle,
    outputs: Sequence[str],
    config: SessionConfig,
    input_size: tuple[int, int] | None,
) -> Session:
    """Open a network to compute ``outputs``.

    ``input_size`` is the height and width of its images where it is fixed. Raises ``MataError`` for
    a network that cannot be opened and ``Unavailable`` for a missing runtime.
    """
    if config.runtime == "openvino":
        from mataserver_onnx.openvino_session import OpenVinoSession

        return OpenVinoSession(bundle, outputs, config, input_size)
    from mataserver_onnx.onnxruntime_session import OnnxRuntimeSession

    return OnnxRuntimeSession(bundle, outputs, config)
