"""Opens SAM checkpoints: local directories in the layout of the Hugging Face hub.

One ``Sam3VideoModel`` (the layout of ``facebook/sam3``) holds every weight of SAM3; the detector,
the image tracker and the video tracker are views of it, and so is the image model of a SAM 2.
Weights that a checkpoint lacks are an error, never initialised at random. Nothing here accesses the
network.

Only ``load`` functions import this module: it imports torch and transformers.
"""

from __future__ import annotations

import json
import logging
import re
from contextlib import contextmanager
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from transformers import (
    CLIPTokenizer,
    Sam2Config,
    Sam2Model,
    Sam2VideoModel,
    Sam3TrackerConfig,
    Sam3TrackerModel,
    Sam3VideoModel,
    SamModel,
)
from transformers.models.sam3 import modeling_sam3
from transformers.utils import logging as transformers_logging

from mataserver import MataError, Unavailable, check_checkpoint
from mataserver_sam.preprocess import (
    HALF,
    IMAGENET_MEAN,
    IMAGENET_STD,
    PadPreparation,
    StretchPreparation,
    roi_align,
)
from mataserver_sam.weights import PointWeights, Weights

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from mataserver_sam.preprocess import Triple

_LOCAL = {"local_files_only": True, "trust_remote_code": False}
_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
_UNREADABLE = (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError)
# transformers types these in part only.
_module: Any = modeling_sam3
_tokenizers: Any = CLIPTokenizer
_transformers_logging: Any = transformers_logging

log = logging.getLogger("mataserver.plugin.sam")


def load_sam3(path: Path, device: str = "auto", dtype: str = "auto") -> Weights:
    """Load SAM3 from a directory.

    ``device`` is "auto", "cpu", "cuda" or "cuda:N"; ``dtype`` "auto" (float32 on a CPU, bfloat16 on
    a GPU), "float32", "float16" or "bfloat16". Raises ``MataError`` for an incomplete or unreadable
    checkpoint, ``Unavailable`` for a missing device or package.
    """
    place = choose_device(device)
    number = choose_dtype(dtype, place)
    _install_roi_align()
    video = load_pretrained(Sam3VideoModel, path, place, number)
    tokenizer = _tokenizer(path)
    side = video.detector_model.config.vision_config.backbone_config.image_size
    prepare = StretchPreparation(side, *_normalisation(path, HALF, HALF))
    return Weights(video, _tracker_image(video), tokenizer, prepare, place, number)


def load_sam2(path: Path, device: str = "auto", dtype: str = "auto") -> PointWeights:
    """Load SAM 2 from a directory: for images and videos, or for images only.

    Takes and raises what ``load_sam3`` does.
    """
    place = choose_device(device)
    number = choose_dtype(dtype, place)
    with checkpoint_errors("configuration"):
        kind = json.loads((path / "config.json").read_text())["model_type"]
    video = load_pretrained(Sam2VideoModel, path, place, number) if kind == "sam2_video" else None
    image = load_pretrained(Sam2Model, path, place, number) if video is None else _sam2_image(video)
    side = image.config.prompt_encoder_config.image_size
    prepare = StretchPreparation(side, *_normalisation(path, IMAGENET_MEAN, IMAGENET_STD))
    return PointWeights(image, video, prepare, place, number)


def load_sam1(path: Path, device: str = "auto", dtype: str = "auto") -> PointWeights:
    """Load SAM 1 from a directory; takes and raises what ``load_sam3`` does."""
    place = choose_device(device)
    number = choose_dtype(dtype, place)
    image = load_pretrained(SamModel, path, place, number)
    side = image.config.vision_config.image_size
    prepare = PadPreparation(side, *_normalisation(path, IMAGENET_MEAN, IMAGENET_STD))
    return PointWeights(image, None, prepare, place, number)


def _tokenizer(path: Path) -> Any:
    # Without its files transformers silently creates a tokenizer with almost no vocabulary.
    if not any((path / name).is_file() for name in ("tokenizer.json", "vocab.json")):
        raise MataError("the checkpoint lacks its tokenizer")
    with checkpoint_errors("tokenizer"):
        return _tokenizers.from_pretrained(str(path), **_LOCAL)


def load_pretrained(kind: Any, path: Path, device: torch.device, dtype: torch.dtype) -> Any:
    """Load weights into the class ``kind``, in evaluation mode, on ``device``.

    Raises ``MataError`` when one is missing, or for settings that name parts elsewhere.
    """
    check_checkpoint(path)
    _transformers_logging.set_verbosity_error()
    _transformers_logging.disable_progress_bar()
    with checkpoint_errors("weights"):
        model, report = kind.from_pretrained(
            str(path), dtype=dtype, output_loading_info=True, **_LOCAL
        )
    missing = sorted(report["missing_keys"])
    if missing:
        raise MataError(
            f"the checkpoint lacks {len(missing)} of the weights of {kind.__name__}, "
            f"{missing[0]} among them"
        )
    return model.eval().requires_grad_(requires_grad=False).to(device)


def _normalisation(path: Path, mean: Triple, std: Triple) -> tuple[Triple, Triple]:
    """Return mean and deviation: the checkpoint's, else those given."""
    settings = _image_settings(path)
    return tuple(settings.get("image_mean") or mean), tuple(settings.get("image_std") or std)


def _image_settings(path: Path) -> dict[str, Any]:
    """Return the settings of the checkpoint's image processor.

    They are a part of the whole processor's or have a file of their own, searched in transformers'
    order.
    """
    found: dict[str, Any] = {}
    with checkpoint_errors("image processor configuration"):
        for name in ("processor_config.json", "preprocessor_config.json"):
            file = path / name
            settings = dict(json.loads(file.read_text())) if file.is_file() else {}
            found = settings.get("image_processor") or (settings if name.startswith("pre") else {})
            if found:
                break
    return found


def _tracker_image(video: Any) -> Any:
    """Return the tracker of a SAM3 video model as a ``Sam3TrackerModel`` without an encoder."""
    return _shared_model(video.tracker_model, Sam3TrackerModel, Sam3TrackerConfig, encoder=None)


def _sam2_image(video: Any) -> Any:
    """Return a ``Sam2VideoModel`` as a ``Sam2Model``."""
    return _shared_model(video, Sam2Model, Sam2Config, encoder=video.vision_encoder)


def _shared_model(source: Any, kind: Any, config: Any, encoder: Any) -> Any:
    """Return a model of the class ``kind`` that shares the parts of ``source``."""
    settings = source.config.to_dict()
    names = ("vision_config", "prompt_encoder_config", "mask_decoder_config")
    with torch.device("meta"):
        model = kind(config(**{name: settings[name] for name in names}))
    model.vision_encoder = encoder
    for name in ("shared_image_embedding", "prompt_encoder", "mask_decoder"):
        setattr(model, name, getattr(source, name))
    model.no_memory_embedding = source.no_memory_embedding
    return model.eval()


def _install_roi_align() -> None:
    """Provide ``roi_align`` to transformers where there is no torchvision.

    SAM3's encoder of boxes calls it as ``torchvision.ops.roi_align``, which its module only defines
    when torchvision is installed.
    """
    if not hasattr(_module, "torchvision"):
        _module.torchvision = SimpleNamespace(ops=SimpleNamespace(roi_align=roi_align))


def choose_device(wanted: str) -> torch.device:
    """Return the device for "auto", "cpu", "cuda" or "cuda:N"; "auto" takes a GPU if there is one.

    Raises ``Unavailable`` for anything that this machine does not have.
    """
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if wanted == "auto":
        return torch.device("cuda" if gpus else "cpu")
    match = re.fullmatch(r"cpu|cuda(?::(\d+))?", wanted)
    if match is None:
        raise Unavailable(f"the device {wanted!r} is none of auto, cpu, cuda and cuda:N")
    if wanted != "cpu" and int(match[1] or 0) >= gpus:
        raise Unavailable(f"the device {wanted!r} was asked for, but torch finds {gpus} GPUs here")
    return torch.device(wanted)


def choose_dtype(wanted: str, device: torch.device) -> torch.dtype:
    """Return the number format; "auto" is float32 on a CPU and bfloat16 on a GPU."""
    if wanted == "auto":
        return torch.float32 if device.type == "cpu" else torch.bfloat16
    if wanted not in _DTYPES:
        raise Unavailable(f"the dtype {wanted!r} is none of auto, {', '.join(_DTYPES)}")
    return _DTYPES[wanted]


@contextmanager
def checkpoint_errors(part: str) -> Iterator[None]:
    """Convert transformers' errors for a bad checkpoint to one sentence without its path."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except ImportError as error:
        raise Unavailable(f"the {part} need a Python package that is not installed") from error
    except _UNREADABLE as error:
        log.warning("cannot read the %s: %s", part, error)
        raise MataError(
            f"the {part} of the checkpoint cannot be read; the server's log says why"
        ) from error
