"""The packages that SAM needs, and the modules that a worker imports before it forks."""

from __future__ import annotations

import importlib
import importlib.util

from mataserver import Unavailable

REQUIRES = ("torch", "transformers", "cv2", "av")
PACKAGES = (
    "torch>=2.6",
    "transformers>=5.23,<6",
    "opencv-python-headless>=4.12,<5",
    "av>=18.1,<20",
)

PRELOAD = (
    "torch",
    "cv2",
    "transformers.modeling_utils",
    "transformers.models.clip.modeling_clip",
    "transformers.models.clip.tokenization_clip",
    "transformers.models.sam3_video.modeling_sam3_video",
    "mataserver_sam.image",
    "mataserver_sam.model",
    "mataserver_sam.prompted",
)
"""Importing these takes seconds; a child forked after it opens a checkpoint in tenths of one."""

ENVIRONMENT = (
    ("HF_HUB_OFFLINE", "1"),  # the server downloads, a worker never does
    ("TOKENIZERS_PARALLELISM", "false"),  # no thread pool for a handful of prompts
)


def check() -> None:
    """Raise ``Unavailable`` when a torchvision is installed that cannot be imported.

    One that was built for another torch makes every import of transformers fail, so a broken one is
    worse than none.
    """
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
