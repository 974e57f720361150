"""The interface to the runtimes, ONNX Runtime and OpenVINO, and their configuration."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from mataserver import MataError, OutOfMemory, Unavailable

if TYPE_CHECKING:
    import logging
    from collections.abc import Mapping
    from pathlib import Path

    from mataserver import LoadContext
    from mataserver_onnx.options import ModelOptions, Settings

    Arrays = Mapping[str, Any]

NEWEST_OPSET = 26
"""The newest version of ONNX's operators that the tested ONNX Runtime (1.31) supports."""

_MEMORY = re.compile(r"bad_?alloc|bad allocation|failed to allocate|out of memory", re.IGNORECASE)
_OPERATOR = re.compile(
    r"Fatal error: ([\w.:]+)(?:\(-?\d+\))? is not a registered|No Op registered for (\w+)"
    r"|Could not find an implementation for (\w+)|rule found for operations: ([\w.]*\w)"
)


class Session(Protocol):
    """An open network.

    batch_size: the only number of images that it takes, if the runtime knows that there is one.
    """

    batch_size: int | None

    def run(self, feeds: Arrays) -> dict[str, Any]:
        """Compute the requested outputs from arrays by the inputs' names."""

    def close(self) -> None:
        """Free the network."""


@dataclass(frozen=True, slots=True)
class SessionConfig:
    """Where and how to run a network.

    device:    "auto", "cpu", "cuda" or "cuda:N".
    precision: "auto", "float32", "float16" or "bfloat16".
    providers: ONNX Runtime's execution providers; those of the device if empty.
    threads:   0 leaves the number to the runtime.
    scratch:   a directory of this plugin's own.
    """

    runtime: str
    device: str
    precision: str
    providers: tuple[str, ...]
    threads: int
    scratch: Path
    log: logging.Logger


def session_config(
    settings: Settings, options: ModelOptions, ctx: LoadContext, suffix: str
) -> SessionConfig:
    """Combine the model's, the plugin's and the server's settings.

    Raises ``Unavailable`` for OpenVINO's files on ONNX Runtime.
    """
    runtime = options.runtime or settings.runtime
    if runtime == "by-file":
        runtime = "openvino" if suffix == ".xml" else "onnxruntime"
    if runtime == "onnxruntime" and suffix == ".xml":
        raise Unavailable("an OpenVINO model needs the runtime openvino")
    precision: str = options.precision or settings.precision
    if precision == "auto" and runtime == "openvino":
        precision = ctx.dtype
    threads = settings.threads if options.threads is None else options.threads
    return SessionConfig(
        runtime=runtime,
        device=ctx.device,
        precision=precision,
        providers=tuple(settings.providers if options.providers is None else options.providers),
        threads=threads or ctx.threads,
        scratch=ctx.data_dir / "onnx",
        log=ctx.log,
    )


def opset_too_new(opset: int) -> MataError:
    """Return the error for a network that uses newer operators than the runtime supports."""
    return MataError(
        f"the network is written in version {opset} of ONNX's operators, which the installed "
        "runtime does not know: export it with an older opset, or update the runtime"
    )


def runtime_failure(error: Exception, what: str, config: SessionConfig) -> MataError:
    """Log a runtime's own error; return it as one sentence."""
    text = str(error)
    config.log.warning("%s: %s", what, text)
    if _MEMORY.search(text):
        return OutOfMemory("the network does not fit into memory")
    if "IR version" in text:
        return MataError(
            "the network is written in a newer format of ONNX than the installed runtime knows: "
            "update the runtime"
        )
    operator = _OPERATOR.search(text)
    if operator:
        name = next(each for each in operator.groups() if each)
        return MataError(f"the network needs the operator {name}, which {config.runtime} lacks")
    return MataError(f"{what}; the server's log says why")
