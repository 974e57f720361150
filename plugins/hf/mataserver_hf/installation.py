"""The packages that these models need, and the modules that a worker imports before it forks.

transformers needs no torchvision for still images, but a torchvision that does not match the
installed torch makes ``import transformers.image_processing_utils`` fail, so a broken one is worse
than none: ``check`` reports it before transformers fails on it.
"""

from __future__ import annotations

import importlib
import importlib.util
from functools import partial
from typing import TYPE_CHECKING, Any

from mataserver import Backend, Params, Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from mataserver import LoadContext, Model, ModelFiles, ModelSpec, Part

REQUIRES = ("torch", "transformers", "scipy", "PIL")
PACKAGES = ("torch>=2.6", "transformers>=5.18,<6", "scipy>=1.11", "pillow>=11.3")

PRELOAD = (
    "torch",
    "transformers.modeling_utils",
    "transformers.models.auto.image_processing_auto",
    "transformers.models.auto.modeling_auto",
    "transformers.models.auto.processing_auto",
    "transformers.models.vit.image_processing_pil_vit",  # imports what all processors share
    "transformers.models.vit.modeling_vit",  # imports what all models share
    "mataserver_hf.checkpoint",
)
"""One list for every backend of this plugin, so that they share one zygote.

Importing these takes seconds; a child forked after it opens a checkpoint in tenths of a second.
"""

_WEIGHTS = ("*.safetensors", "pytorch_model*.bin")

ENVIRONMENT = (
    ("HF_HUB_OFFLINE", "1"),  # the server downloads, a worker never does
    ("TOKENIZERS_PARALLELISM", "false"),  # no thread pool for a handful of prompts
)


def check() -> None:
    """Raise ``Unavailable`` when a torchvision is installed that cannot be imported."""
    if importlib.util.find_spec("torchvision") is None:
        return
    try:
        importlib.import_module("torchvision")
    except (ImportError, RuntimeError, OSError, AttributeError) as error:
        raise Unavailable(
            "torchvision is installed but cannot be imported, which breaks transformers: install "
            "the torchvision release made for the installed torch, or run "
            "`pip uninstall torchvision`"
        ) from error


def has_weights(files: ModelFiles) -> bool:
    """Whether a model has weights that transformers reads, or has not been pulled yet.

    A directory with the same ``config.json`` may hold weights for another runtime only.
    """
    path = files.path
    return path is None or any(next(path.glob(each), None) is not None for each in _WEIGHTS)


def backend(
    name: str,
    task: str,
    load: Callable[[ModelSpec, LoadContext], Model],
    accepts: Collection[str] | Callable[[ModelFiles], bool],
    *,
    params: type[Params] = Params,
    compiles: bool = False,
    parts: Callable[[ModelFiles, Any], Mapping[str, Part]] | None = None,
) -> Backend:
    """Return a backend of this distribution, for checkpoints whose weights transformers can read.

    ``accepts`` are the families of its checkpoints, or says whether one belongs to them.
    """
    return Backend(
        name=name,
        task=task,
        source="hf",
        load=load,
        accepts=partial(_accepts, accepts),
        params=params,
        requires=REQUIRES,
        packages=PACKAGES,
        gpu=True,
        compiles=compiles,
        preload=PRELOAD,
        environment=ENVIRONMENT,
        parts=parts,
    )


def _accepts(families: Collection[str] | Callable[[ModelFiles], bool], files: ModelFiles) -> bool:
    known = families(files) if callable(families) else files.model_type in families
    return known and has_weights(files)
