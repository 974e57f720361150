"""Networks on OpenVINO. Only ``load`` imports this module."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mataserver import MataError, Unavailable
from mataserver_onnx.session import NEWEST_OPSET, opset_too_new, runtime_failure

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mataserver_onnx.bundle import Bundle
    from mataserver_onnx.session import Arrays, SessionConfig

_PRECISIONS = {"auto": "f32", "float32": "f32", "float16": "f16", "bfloat16": "bf16"}


def disable_telemetry() -> None:
    """Keep OpenVINO from its telemetry, which writes into the home directory and reports.

    OpenVINO starts it on import, without consent, whenever the telemetry package is importable.
    """
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type] # "not importable"


def import_openvino() -> Any:
    """Import OpenVINO. Raises ``Unavailable`` when it is not installed."""
    disable_telemetry()
    try:
        import openvino
    except ImportError as error:
        raise Unavailable(
            "the runtime openvino is not installed: pip install 'mataserver-onnx[openvino]'"
        ) from error
    return openvino


class OpenVinoSession:
    """A network on the CPU, through OpenVINO."""

    def __init__(
        self,
        bundle: Bundle,
        outputs: Sequence[str],
        config: SessionConfig,
        input_size: tuple[int, int] | None,
    ) -> None:
        """Open and compile the network.

        Raises ``Unavailable`` for any device but the CPU, and ``MataError`` for a network that
        cannot be opened.
        """
        if config.device.startswith("cuda"):
            raise Unavailable(f"the runtime openvino has no device {config.device}")
        if bundle.graph.opset > NEWEST_OPSET:
            raise opset_too_new(bundle.graph.opset)
        self._bundle, self._config, self._input_size = bundle, config, input_size
        self._outputs = list(outputs)
        self.batch_size: int | None = None
        self._request: Any = self._open()

    def _open(self) -> Any:
        openvino = import_openvino()
        try:
            with _without_links(self._bundle, self._config) as path:
                model = _with_outputs(openvino, openvino.Core().read_model(path), self._outputs)
                _fix_input_size(model, self._input_size)
                self.batch_size = _batch_size(model)
                compiled = openvino.Core().compile_model(model, "CPU", _options(self._config))
            return compiled.create_infer_request()
        except RuntimeError as error:
            raise runtime_failure(
                error, "the network cannot be opened by openvino", self._config
            ) from error

    def run(self, feeds: Arrays) -> dict[str, Any]:
        """Compute the outputs. Raises ``MataError``."""
        request, self._request = self._request or self._open(), None
        try:
            values = request.infer(dict(feeds), share_inputs=True)
        except RuntimeError as error:
            # A network that has failed once fails or gives old answers from then on: open it anew.
            raise runtime_failure(error, "the network has failed", self._config) from error
        self._request = request
        return {name: values[name].copy() for name in self._outputs}

    def close(self) -> None:
        """Free the network."""
        self._request = None


def _options(config: SessionConfig) -> dict[str, str]:
    # By default it computes in bfloat16 where the CPU supports it.
    options = {
        "INFERENCE_PRECISION_HINT": _PRECISIONS[config.precision],
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": "1",
    }
    if config.threads:
        options["INFERENCE_NUM_THREADS"] = str(config.threads)
    return options


def _with_outputs(openvino: Any, model: Any, outputs: Sequence[str]) -> Any:
    """Return the network without the outputs that are not read."""
    wanted = [port for port in model.outputs if not port.get_names().isdisjoint(outputs)]
    if len(wanted) < len(outputs):
        raise MataError(f"openvino finds no output {' or '.join(outputs)} in the network")
    if len(wanted) == len(model.outputs):
        return model
    return openvino.Model(wanted, model.get_parameters())


def _batch_size(model: Any) -> int | None:
    """Return the number of answers of a network whatever it is given; None if it follows that.

    A constant shape holds it. For another number of images OpenVINO would fail, or on one thread
    answer with whatever is in memory.
    """
    first = [shape[0] for port in model.outputs if len(shape := port.get_partial_shape())]
    return next((side.get_length() for side in first if side.is_static), None)


def _fix_input_size(model: Any, input_size: tuple[int, int] | None) -> None:
    """Fix the network's input size, so that it runs faster, if all images have one size."""
    if input_size is None:
        return
    for port in model.inputs:
        shape = port.get_partial_shape()
        if len(shape) == 4 and shape.is_dynamic:
            last = str(shape[3]) == "3" and str(shape[1]) != "3"
            rows, columns = (1, 2) if last else (2, 3)
            shape[rows], shape[columns] = input_size
            model.reshape({port.get_any_name(): shape})


@contextmanager
def _without_links(bundle: Bundle, config: SessionConfig) -> Iterator[Path]:
    """Yield the path of a network whose weights lie beside it and are not links.

    OpenVINO refuses weights behind a link that leads out of the directory, as in the hub's cache.
    """
    files = [bundle.network, *(bundle.network.parent / name for name in bundle.graph.external)]
    if bundle.network.suffix == ".xml" or not any(file.is_symlink() for file in files[1:]):
        yield bundle.network
        return
    config.scratch.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=config.scratch) as directory:
        for file in files:
            target = Path(directory, file.relative_to(bundle.network.parent))
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(file.resolve(), target)
            except OSError:  # another file system
                shutil.copyfile(file, target)
        yield Path(directory, bundle.network.name)
