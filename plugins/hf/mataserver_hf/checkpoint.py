"""Opens a checkpoint: a local directory in the layout of the Hugging Face hub.

Only ``load`` functions import this module: it imports torch and transformers. Nothing here touches
the network or runs code that comes with a checkpoint.
"""

from __future__ import annotations

import json
import pickle
import re
import traceback
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from safetensors import SafetensorError
from transformers import AutoImageProcessor, AutoTokenizer
from transformers.generation import configuration_utils
from transformers.utils import logging as transformers_logging

from mataserver import BadRequest, MataError, Unavailable, check_checkpoint
from mataserver_hf import generation_settings
from mataserver_hf.compilation import Compiler, noise_image
from mataserver_hf.network import Network
from mataserver_hf.preprocessor import PROBE_SIZES, Preprocessor

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mataserver import LoadContext, ModelSpec, Params

_LOCAL = {"local_files_only": True, "trust_remote_code": False}
# transformers types these in part only.
_processors: Any = AutoImageProcessor
M = TypeVar("M")
_logging: Any = transformers_logging

_UNREADABLE = (
    OSError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    RuntimeError,
    SafetensorError,
    pickle.UnpicklingError,  # more than weights: torch runs none of it
)
_SEE_LOG = "; the server's log says why"
_OTHER_SIZES = ": config.json states other sizes than they have, or not the number of classes"
_MAX_REASON = 300
_STATISTICS = ("running_mean", "running_var")


class Checkpoint:
    """The files of one model, with the device and the number format to run it in."""

    def __init__(self, spec: ModelSpec, ctx: LoadContext) -> None:
        """Choose device and format and set torch's threads (``ctx.threads``, 0 leaves them).

        Raises ``Unavailable`` for a device that this machine does not have, and ``MataError`` for a
        checkpoint that names parts which do not lie in its directory.
        """
        if spec.path is None:
            raise MataError(f"{spec.name} has no directory to load from")
        check_checkpoint(spec.path, spec.name)
        self.name = spec.name
        self._path = str(spec.path)
        self.max_pixels = ctx.max_pixels
        self._log = ctx.log
        self._device = choose_device(ctx.device)
        self._dtype = choose_dtype(ctx.dtype, self._device)
        self._compiler = Compiler(ctx)
        self._network: Network
        self._preprocessor: Preprocessor | None = None
        if ctx.threads > 0:
            torch.set_num_threads(ctx.threads)
        _logging.set_verbosity_error()
        _logging.disable_progress_bar()

    def network(self, auto_class: Any, unused: re.Pattern[str] | None = None) -> Network:
        """Load the weights into the class that ``auto_class`` (an ``AutoModelFor...``) finds.

        A checkpoint that lacks weights is refused rather than completed with random ones;
        ``unused`` matches the names of weights that the architecture declares and never reads.
        """
        with self._reading("weights"):
            module, report = auto_class.from_pretrained(
                self._path,
                dtype=self._dtype,
                output_loading_info=True,
                **_LOCAL,
                **self._class_count(),
            )
        self._check_complete(module, report["missing_keys"], unused)
        stops: tuple[str, ...] = ()
        if getattr(module, "generation_config", None) is not None:
            stops = generation_settings.stop_strings(module, self.name)
            module.generation_config = generation_settings.followed(module, self.name)
        self._network = Network(module.eval().to(self._device), self._device, stops)
        return self._network

    def compiled(self, model: M, params: Params) -> M:
        """Return ``model``, which runs this checkpoint's network, compiled if so configured.

        ``params`` are valid parameters for a trial run. Raises ``MataError`` when the network
        cannot be compiled, and what ``tried`` raises.
        """
        self.tried(model, params)
        if self._compiler.wanted:
            self._compiler.compile(self.name, model, self._network, params)
        return model

    def tried(self, model: M, params: Params, *, doubtful: bool | None = None) -> M:
        """Return ``model``, which runs this checkpoint's network on what its processor makes.

        Where the files leave a doubt that it can, it has to answer for an image; None has the
        stated sizes decide. Raises ``MataError`` where it cannot: each request would fail.
        """
        if doubtful is None and self._preprocessor is not None:
            doubtful = self._preprocessor.may_not_fit(self._network.config)
        if doubtful:
            try:
                model.predict([noise_image(PROBE_SIZES[0])], [params])  # type: ignore[attr-defined]
            except torch.OutOfMemoryError:
                raise
            except (BadRequest, RuntimeError, ValueError) as error:
                why = " ".join(str(error).split())[:_MAX_REASON]
                raise MataError(
                    f"the network of {self.name} does not take what its image processor makes of "
                    f"an image: {why}"
                ) from error
        return model

    def preprocessor(self) -> Preprocessor:
        """Open the image processor.

        Always the Pillow implementation, so that results do not depend on whether torchvision is
        installed. Raises ``MataError`` for one that cannot be read, or makes too large images.
        """
        with self._reading("image processor configuration"):
            processor = _processors.from_pretrained(self._path, backend="pil", **_LOCAL)
            self._preprocessor = Preprocessor(processor, self.max_pixels)
        return self._preprocessor

    def uncropped_preprocessor(self) -> Preprocessor:
        """Open the image processor of a network whose outputs refer to places in the image.

        Raises ``MataError`` for one that crops images, and for one that pads them where nothing
        says what boxes are fractions of: the outputs would be mapped to wrong places.
        """
        preprocessor = self.preprocessor()
        if preprocessor.pads_untold:
            raise MataError(
                f"the image processor of {self.name} pads images (pad_size) and does not convert "
                "boxes (do_convert_annotations), so nothing says what boxes are fractions of"
            )
        if preprocessor.crops:
            raise MataError(
                f"the image processor of {self.name} cuts off parts of images (do_center_crop), "
                "so its answers would not cover the whole image"
            )
        return preprocessor

    def image_settings(self) -> dict[str, Any]:
        """Return the image processor's settings.

        They are read from ``processor_config.json`` if that has a section for it, else from
        ``preprocessor_config.json``: the order that transformers uses.
        """
        folder = Path(self._path)
        with self._reading("image processor configuration"):
            whole = folder / "processor_config.json"
            nested = dict(json.loads(whole.read_bytes())) if whole.is_file() else {}
            own = nested.get("image_processor")
            return dict(own or json.loads((folder / "preprocessor_config.json").read_bytes()))

    def tokenizer(self) -> Any:
        """Open the tokenizer."""
        with self._reading("tokenizer"):
            return AutoTokenizer.from_pretrained(self._path, **_LOCAL)

    def _class_count(self) -> dict[str, int]:
        """Return what transformers has to be told of the number of classes.

        Of PVT it takes 1000 for granted, and does not count the names as for other families.
        """
        config = dict(json.loads((Path(self._path) / "config.json").read_bytes()))
        names = config.get("id2label") if config.get("model_type") == "pvt" else None
        return {"num_labels": len(names)} if names else {}

    def _check_complete(
        self, module: torch.nn.Module, missing: set[str], unused: re.Pattern[str] | None
    ) -> None:
        # Other buffers (position tables) are computed when the model is built.
        learnt = {name for name, _ in module.named_parameters()}
        gaps = sorted(
            name
            for name in missing
            if (name in learnt or name.endswith(_STATISTICS))
            and not (unused and unused.search(name))
        )
        if gaps:
            raise MataError(
                f"the checkpoint of {self.name} lacks {len(gaps)} of the weights that this task "
                f"needs, {gaps[0]} among them: it was trained for something else"
            )

    @contextmanager
    def _reading(self, part: str) -> Iterator[None]:
        """Convert what transformers raises for a bad checkpoint into one sentence."""
        try:
            yield
        except torch.OutOfMemoryError:
            raise
        except ImportError as error:
            raise Unavailable(_missing_package(self.name, str(error))) from error
        except _UNREADABLE as error:
            self._log.warning("%s: cannot read the %s: %s", self.name, part, error)
            if _is_of_generation(error):
                raise MataError(
                    f"the generation settings of {self.name} cannot be used: "
                    f"{' '.join(str(error).split())[:_MAX_REASON]}"
                ) from error
            # transformers' own text tells an option of its own, and a report that is not printed.
            why = _OTHER_SIZES if "ignore_mismatched_sizes" in str(error) else _SEE_LOG
            raise MataError(f"the {part} of {self.name} cannot be read{why}") from error


def _is_of_generation(error: Exception) -> bool:
    """Whether it is of the settings for generating text, which are opened with the weights.

    They are those of ``generation_config.json``, or else of ``config.json``.
    """
    places = traceback.extract_tb(error.__traceback__)
    return any(each.filename == configuration_utils.__file__ for each in places)


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
        offered = f"{gpus} CUDA device{'s' if gpus > 1 else ''}" if gpus else "no CUDA device"
        raise Unavailable(f"the device {wanted!r} was asked for, but torch finds {offered} here")
    return torch.device(wanted)


def choose_dtype(wanted: str, device: torch.device) -> torch.dtype | str:
    """Return the number format.

    "auto" is float32 on a CPU; on a GPU the format that the checkpoint was saved in.
    """
    if wanted == "auto":
        return torch.float32 if device.type == "cpu" else "auto"
    formats = {
        "float32": torch.float32,
        "float16": torch.float16,
        "bfloat16": torch.bfloat16,
    }
    if wanted not in formats:
        raise Unavailable(f"the dtype {wanted!r} is none of auto, {', '.join(formats)}")
    return formats[wanted]


def _missing_package(name: str, message: str) -> str:
    packages = list(dict.fromkeys(re.findall(r"pip install ([A-Za-z0-9_.\-]+)", message)))
    if not packages:
        return f"{name} needs a Python package that is not installed"
    return f"{name} needs a package that is not installed: pip install {' '.join(packages)}"
