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
from mataserver_onnx.openvino_session import import_openvino, opt_out

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from mataserver_onnx.export.families import Family

    Pixels = NDArray[np.uint8]

_LOCAL: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
# DPT declares these and never reads them; several published checkpoints leave them out.
_UNREAD = re.compile(r"(^|\.)fusion_stage\.layers\.0\.residual_layer1\.")
_MOST, _LEAST_SIDE, _MOST_SIDE = 64, 33, 8192
_speech: Any = transformers_logging
_processors: Any = transformers.AutoImageProcessor


class Checkpoint:
    """A checkpoint of transformers, opened for tracing."""

    def __init__(self, path: Path, family: Family) -> None:
        """Open it. Raises ``MataError`` for one that cannot be read."""
        opt_out()  # transformers and nncf import OpenVINO by themselves
        _speech.set_verbosity_error()
        _speech.disable_progress_bar()
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
        _refuse_gaps(self.module, report["missing_keys"])

    def write(self, directory: Path, target: str, photos: Sequence[Pixels], *, int8: bool) -> None:
        """Write the network, its configuration and its processor's into a directory.

        Inputs are as large as the first of the ``photos`` becomes; in int8, OpenVINO's are
        calibrated on all. Raises ``Unavailable`` for a missing package.
        """
        writer = _write_openvino if target == "openvino" else _write_onnx
        with _silence(), _shadowed(self.module, self.family.shadows):
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
        """Return what transformers makes of a photo: tensors by the inputs' names."""
        given = self.processor(
            images=[photo], input_data_format="channels_last", return_tensors="pt"
        )
        names = ("pixel_values", "pixel_mask") if self.family.masked else ("pixel_values",)
        return {name: given[name] for name in names}

    def sample(self, photo: Pixels) -> dict[str, Any]:
        """Return what the network is traced with: a photo, twice.

        It is cut to be wide: of a square one the trace would keep that both sides are equal.
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

    def sides(self) -> dict[str, Any]:
        """Return which sides of the inputs may vary, as torch.export takes it."""
        step = self.family.step
        batch = Dim("batch", min=1, max=_MOST)
        free: list[Any] = []
        for name in ("height", "width") if step != FIXED else ():
            least = -(-_LEAST_SIDE // step)
            side = Dim(f"_{name}" if step > 1 else name, min=least, max=_MOST_SIDE // step)
            free.append(step * side if step > 1 else side)
        sides: dict[str, Any] = {"pixel_values": {0: batch, **dict(enumerate(free, start=2))}}
        if self.family.masked:
            sides["pixel_mask"] = {0: batch, **dict(enumerate(free, start=1))}
        return sides


def _squares_only(config: Any) -> bool:
    """Whether it is a DPT without a backbone of its own, or a hybrid.

    Of an image that is no square, transformers mixes up their patches, and torch would agree.
    """
    return config.model_type == "dpt" and (config.is_hybrid or config.backbone_config is None)


def _write_onnx(
    checkpoint: Checkpoint, directory: Path, photos: Sequence[Pixels], *, int8: bool
) -> None:
    exporters: Any = importlib.import_module("transformers.exporters")
    quantizer = None
    if int8:
        # Weights in int8, what goes through them when it comes; convolutions stay as they are.
        config = exporters.OnnxRuntimeDynamicConfig(op_types_to_quantize=["MatMul", "Gemm"])
        quantizer = exporters.OnnxRuntimeQuantizer(config)
    exported = exporters.OnnxExporter().export(
        checkpoint.module,
        checkpoint.sample(photos[0]),
        config=exporters.OnnxConfig(dynamic_shapes=checkpoint.sides(), quantizer=quantizer),
    )
    _prune(exported.program, checkpoint.family.outputs)
    exporters.OnnxExporter.save_program(exported.program, directory / "model.onnx")


def _prune(program: Any, outputs: tuple[str, ...]) -> None:
    """Cut off the outputs that nobody reads, and what computes them alone."""
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
        config=exporters.OpenVINOConfig(dynamic_shapes=checkpoint.sides(), quantizer=quantizer),
    )
    whole = exported.program
    wanted = [whole.output(name) for name in checkpoint.family.outputs]
    model = openvino.Model(wanted, whole.get_parameters())
    if checkpoint.family.step == FIXED:
        model.reshape([-1, *sample["pixel_values"].shape[1:]])
    openvino.save_model(model, directory / "openvino_model.xml", compress_to_fp16=False)


def _calibrated(checkpoint: Checkpoint, photos: Sequence[Pixels], exporters: Any) -> Any:
    """Return what turns weights, and what goes through them, to int8 by the photos' values."""
    import nncf  # noqa: F401 - imported to be named when it is missing

    config = exporters.NNCFQuantizationConfig(subset_size=len(photos))
    samples = [checkpoint.prepare(photo) for photo in photos]
    return exporters.NNCFOpenVINOQuantizer(config, calibration_dataset=samples)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _refuse_gaps(module: Any, missing: set[str]) -> None:
    """Raise ``MataError`` for a checkpoint that lacks weights: they would be random."""
    learnt = {name for name, _ in module.named_parameters()}
    gaps = sorted(name for name in missing & learnt if not _UNREAD.search(name))
    if gaps:
        raise MataError(
            f"the checkpoint lacks {len(gaps)} of the weights that its task needs, {gaps[0]} among "
            "them: it was trained for something else"
        )


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Keep the exporters' progress and their doubts about each other's versions to themselves.

    Whether an export is right is compared afterwards.
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
def _shadowed(module: Any, names: tuple[str, ...]) -> Iterator[None]:
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


def _length(thing: Any) -> Any:
    return thing.shape[0] if isinstance(thing, torch.Tensor) else builtins.len(thing)


def _whole(value: Any) -> Any:
    return value if isinstance(value, torch.SymInt) else builtins.int(value)


_SYMBOLIC = {"len": _length, "int": _whole}
