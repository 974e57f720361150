"""Traces a checkpoint and writes it as an ONNX or OpenVINO model. Imports torch."""

from __future__ import annotations

import builtins
import contextlib
import importlib
import io
import logging
import re
import warnings
from typing import TYPE_CHECKING, Any

import torch
import transformers
from torch.export import Dim
from transformers.utils import logging as transformers_logging

from mataserver import MataError, Unavailable
from mataserver_onnx.export.families import FIXED
from mataserver_onnx.openvino_session import disable_telemetry, import_openvino

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from mataserver_onnx.export.families import Family

    Pixels = NDArray[np.uint8]

_LOCAL: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
# DPT declares these and never uses them; several published checkpoints leave them out.
_UNUSED = re.compile(r"(^|\.)fusion_stage\.layers\.0\.residual_layer1\.")
_MAX_BATCH, _MIN_SIDE, _MAX_SIDE = 64, 33, 8192
_transformers_logging: Any = transformers_logging
_processors: Any = transformers.AutoImageProcessor


class Checkpoint:
    """A checkpoint of transformers, opened for tracing."""

    def __init__(self, path: Path, family: Family) -> None:
        """Open it. Raises ``MataError`` for one that cannot be read."""
        disable_telemetry()  # transformers and nncf import OpenVINO
        _transformers_logging.set_verbosity_error()
        _transformers_logging.disable_progress_bar()
        self.family = family
        opener: Any = getattr(transformers, family.auto)
        try:
            self.processor: Any = _processors.from_pretrained(path, backend="pil", **_LOCAL)
            module, report = opener.from_pretrained(
                path, dtype=torch.float32, output_loading_info=True, **_LOCAL
            )
        except ImportError as error:
            raise Unavailable("the checkpoint needs a package that is not installed") from error
        except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
            raise MataError(f"the checkpoint cannot be read: {_first_line(error)}") from error
        self.module: Any = module.eval()
        _check_complete(self.module, report["missing_keys"])

    def write(self, directory: Path, target: str, photos: Sequence[Pixels], *, int8: bool) -> None:
        """Write the network, its configuration and its processor's into a directory.

        The sample input has the size of the first prepared photo; in int8, OpenVINO's export is
        calibrated on all ``photos``. Raises ``Unavailable`` for a missing package.
        """
        writer = _write_openvino if target == "openvino" else _write_onnx
        with _quiet(), _symbolic_builtins(self.module, self.family.replaced_builtins):
            try:
                writer(self, directory, photos, int8=int8)
            except ImportError as error:
                raise Unavailable(
                    f"exporting needs a package that is not installed: {error.name or error}"
                ) from error
            except (RuntimeError, ValueError, TypeError, AssertionError) as error:
                raise MataError(f"the network cannot be traced: {_first_line(error)}") from error
        self.module.config.save_pretrained(directory)
        self.processor.save_pretrained(directory)

    def prepare(self, photo: Pixels) -> dict[str, Any]:
        """Return transformers' inputs for a photo: tensors by the inputs' names."""
        given = self.processor(
            images=[photo], input_data_format="channels_last", return_tensors="pt"
        )
        names = ("pixel_values", "pixel_mask") if self.family.takes_mask else ("pixel_values",)
        return {name: given[name] for name in names}

    def sample(self, photo: Pixels) -> dict[str, Any]:
        """Return the inputs for tracing: a photo, twice.

        It is cropped to be wide: from a square one the trace would conclude that both sides are
        equal.
        """
        height, width = photo.shape[:2]
        wide = photo[: max(1, min(height, width * 5 // 8))]
        prepared = self.prepare(wide)
        rows, columns = prepared["pixel_values"].shape[-2:]
        if rows != columns and _squares_only(self.module.config):
            raise MataError(
                "the network cannot be traced: transformers takes the patches of this DPT for a "
                f"square's, and its image processor makes images of {columns}x{rows} pixels"
            )
        return {name: torch.cat([each, each]) for name, each in prepared.items()}

    def dynamic_shapes(self) -> dict[str, Any]:
        """Return which dimensions of the inputs may vary, in the form of torch.export."""
        step = self.family.step
        batch = Dim("batch", min=1, max=_MAX_BATCH)
        free: list[Any] = []
        for name in ("height", "width") if step != FIXED else ():
            least = -(-_MIN_SIDE // step)
            side = Dim(f"_{name}" if step > 1 else name, min=least, max=_MAX_SIDE // step)
            free.append(step * side if step > 1 else side)
        sides: dict[str, Any] = {"pixel_values": {0: batch, **dict(enumerate(free, start=2))}}
        if self.family.takes_mask:
            sides["pixel_mask"] = {0: batch, **dict(enumerate(free, start=1))}
        return sides


def _squares_only(config: Any) -> bool:
    """Whether it is a DPT without a separate backbone, or a hybrid.

    transformers mixes up their patches for images that are not square, and torch would agree.
    """
    return config.model_type == "dpt" and (config.is_hybrid or config.backbone_config is None)


def _write_onnx(
    checkpoint: Checkpoint, directory: Path, photos: Sequence[Pixels], *, int8: bool
) -> None:
    exporters: Any = importlib.import_module("transformers.exporters")
    quantizer = None
    if int8:
        # Weights in int8, activations quantized at run time; convolutions stay as they are.
        config = exporters.OnnxRuntimeDynamicConfig(op_types_to_quantize=["MatMul", "Gemm"])
        quantizer = exporters.OnnxRuntimeQuantizer(config)
    exported = exporters.OnnxExporter().export(
        checkpoint.module,
        checkpoint.sample(photos[0]),
        config=exporters.OnnxConfig(
            dynamic_shapes=checkpoint.dynamic_shapes(), quantizer=quantizer
        ),
    )
    _prune(exported.program, checkpoint.family.outputs)
    exporters.OnnxExporter.save_program(exported.program, directory / "model.onnx")


def _prune(program: Any, outputs: tuple[str, ...]) -> None:
    """Remove the outputs that are not read, and the operators that only they need."""
    from onnx_ir.passes.common import RemoveUnusedNodesPass

    for value in list(program.graph.outputs):
        if value.name not in outputs:
            program.graph.outputs.remove(value)
    RemoveUnusedNodesPass()(program)


def _write_openvino(
    checkpoint: Checkpoint, directory: Path, photos: Sequence[Pixels], *, int8: bool
) -> None:
    openvino = import_openvino()
    exporters: Any = importlib.import_module("transformers.exporters")
    quantizer = _calibrated(checkpoint, photos, exporters) if int8 else None
    sample = checkpoint.sample(photos[0])
    exported = exporters.OpenVINOExporter().export(
        checkpoint.module,
        sample,
        config=exporters.OpenVINOConfig(
            dynamic_shapes=checkpoint.dynamic_shapes(), quantizer=quantizer
        ),
    )
    whole = exported.program
    wanted = [whole.output(name) for name in checkpoint.family.outputs]
    model = openvino.Model(wanted, whole.get_parameters())
    if checkpoint.family.step == FIXED:
        model.reshape([-1, *sample["pixel_values"].shape[1:]])
    openvino.save_model(model, directory / "openvino_model.xml", compress_to_fp16=False)


def _calibrated(checkpoint: Checkpoint, photos: Sequence[Pixels], exporters: Any) -> Any:
    """Return a quantizer of weights and activations to int8, calibrated on the photos."""
    import nncf  # noqa: F401 - imported so that an ImportError names it

    config = exporters.NNCFQuantizationConfig(subset_size=len(photos))
    samples = [checkpoint.prepare(photo) for photo in photos]
    return exporters.NNCFOpenVINOQuantizer(config, calibration_dataset=samples)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _check_complete(module: Any, missing: set[str]) -> None:
    """Raise ``MataError`` for a checkpoint that lacks weights: they would be random."""
    learnt = {name for name, _ in module.named_parameters()}
    gaps = sorted(name for name in missing & learnt if not _UNUSED.search(name))
    if gaps:
        raise MataError(
            f"the checkpoint lacks {len(gaps)} of the weights that its task needs, {gaps[0]} among "
            "them: it was trained for something else"
        )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Suppress the exporters' progress and their warnings about each other's versions.

    The export's correctness is compared afterwards.
    """
    loud = [logging.getLogger(name) for name in ("torch.onnx", "transformers", "root", "nncf")]
    before = [each.level for each in loud]
    nowhere = io.StringIO()
    try:
        for each in loud:
            each.setLevel(logging.ERROR)
        with warnings.catch_warnings(), contextlib.redirect_stdout(nowhere):
            warnings.simplefilter("ignore")
            yield
    finally:
        for each, level in zip(loud, before, strict=True):
            each.setLevel(level)


@contextlib.contextmanager
def _symbolic_builtins(module: Any, names: tuple[str, ...]) -> Iterator[None]:
    """Replace built-in functions in the module of a network's code while it is traced.

    ``len`` of a traced tensor, and ``int`` of one of its sides, are plain numbers: the size of the
    sample would become the only one that the network takes.
    """
    code = importlib.import_module(type(module).__module__)
    replaced = {name: _SYMBOLIC[name] for name in names}
    for name, function in replaced.items():
        setattr(code, name, function)
    try:
        yield
    finally:
        for name in replaced:
            delattr(code, name)


def _symbolic_len(thing: Any) -> Any:
    return thing.shape[0] if isinstance(thing, torch.Tensor) else builtins.len(thing)


def _symbolic_int(value: Any) -> Any:
    return value if isinstance(value, torch.SymInt) else builtins.int(value)


_SYMBOLIC = {"len": _symbolic_len, "int": _symbolic_int}
