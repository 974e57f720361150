"""Fixtures: tiny checkpoints, made once a session, and models that the real backends loaded."""

from __future__ import annotations

import importlib.util
import logging
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from mataserver import LoadContext, ModelSpec
from mataserver_hf import (
    classify,
    depth,
    detect,
    embed,
    got_ocr2,
    segment,
    segment_prompted,
    trocr,
    vlm,
    zero_shot,
    zero_shot_detect,
)
from openapi_watch import documented_answers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["documented_answers"]

BACKENDS = {
    **dict.fromkeys(
        (
            "detr",
            "conditional_detr",
            "deformable_detr",
            "table_transformer",
            "rt_detr",
            "rt_detr_v2",
            "d_fine",
            "yolos",
        ),
        detect.BACKEND,
    ),
    **dict.fromkeys(("vit", "resnet", "clip_classifier"), classify.BACKEND),
    **dict.fromkeys(("clip", "siglip", "siglip2"), zero_shot.BACKEND),
    **dict.fromkeys(("depth_anything", "dpt", "glpn", "zoedepth"), depth.BACKEND),
    **dict.fromkeys(("owlvit", "owlv2"), zero_shot_detect.OWL),
    **dict.fromkeys(("grounding_dino", "mm_grounding_dino"), zero_shot_detect.GROUNDING),
    **dict.fromkeys(
        (
            "segformer",
            "bright_segformer",
            "upernet",
            "beit_segmenter",
            "mask2former",
            "maskformer",
            "oneformer",
            "oneformer_unlisted",
            "detr_panoptic",
            "eomt",
            "eomt_semantic",
            "eomt_dinov3",
        ),
        segment.BACKEND,
    ),
    "clipseg": segment_prompted.BACKEND,
    **dict.fromkeys(
        ("dinov2", "dinov2_with_registers", "dinov3_vit", "dinov3_convnext"), embed.BACKEND
    ),
    "trocr": trocr.BACKEND,
    "got_ocr2": got_ocr2.BACKEND,
    **dict.fromkeys(vlm.FAMILIES, vlm.BACKEND),
}


def _neighbour(name: str) -> Any:
    """Import a module that lies beside this file: test folders are no packages."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(autouse=True, scope="module")
def _offline() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        yield


@pytest.fixture(scope="session")
def tiny() -> Any:
    """The builders of checkpoints."""
    return _neighbour("tiny")


@pytest.fixture(scope="session")
def tiny_reading() -> Any:
    """The builders of text recognisers, and what those can read."""
    return _neighbour("tiny_reading")


@pytest.fixture(scope="session")
def builders(tiny, tiny_reading) -> dict[str, Callable[[Path], None]]:
    """Every builder of a checkpoint by the checkpoint's name.

    Torch gets one thread: those of several test processes spin for each other on few cores, and
    what takes seconds alone then took minutes.
    """
    import torch

    torch.set_num_threads(1)
    return {
        **tiny.BUILDERS,
        **tiny_reading.BUILDERS,
        **_neighbour("tiny_classify").builders(tiny),
        **_neighbour("tiny_pose").BUILDERS,
        **_neighbour("tiny_segment").builders(tiny),
        **_neighbour("tiny_prompted").builders(tiny),
        **_neighbour("tiny_vlm").BUILDERS,
    }


@pytest.fixture(scope="session")
def checkpoint(builders, tmp_path_factory) -> Callable[[str], Path]:
    """``checkpoint(name)`` is a directory; it is shared, so tests that change one copy it."""

    @cache
    def make(name: str) -> Path:
        path: Path = tmp_path_factory.mktemp(name) / name
        builders[name](path)
        return path

    return make


@pytest.fixture
def context(tmp_path) -> Callable[..., LoadContext]:
    """``context(device=..., ...)`` is what the server would hand to ``load``."""
    return lambda **changes: _context(tmp_path, **changes)


@pytest.fixture(scope="session")
def session_context(tmp_path_factory) -> LoadContext:
    """What the server would hand to ``load``, with one thread, for models that tests share."""
    return _context(tmp_path_factory.getbasetemp(), threads=1)


def _context(data_dir: Path, **changes: Any) -> LoadContext:
    values: dict[str, Any] = {"settings": None, "device": "cpu", "dtype": "auto", "threads": 0}
    return LoadContext(**{**values, **changes}, data_dir=data_dir, log=logging.getLogger("hf"))


@pytest.fixture(scope="session")
def model(checkpoint, tmp_path_factory) -> Callable[[str], Any]:
    """``model(name)`` is the loaded checkpoint."""

    @cache
    def load(name: str) -> Any:
        backend = BACKENDS[name]
        spec = ModelSpec(f"tiny/{name}", backend.task, "hf", checkpoint(name))
        # One thread: these networks are too small to share, and other tests want the cores too.
        return backend.load(spec, _context(tmp_path_factory.getbasetemp(), threads=1))

    return load


@pytest.fixture(scope="session")
def load_from(session_context) -> Callable[[str, Path], Any]:
    """``load_from(name, path)`` is a family's backend, and what it loads from a directory."""

    def load(name: str, path: Path) -> Any:
        backend = BACKENDS[name]
        spec = ModelSpec(f"tiny/{name}", backend.task, "hf", path)
        return backend, backend.load(spec, session_context)

    return load


@pytest.fixture(scope="session")
def picture() -> Callable[..., Any]:
    """``picture(height, width)`` is a read-only RGB image with structure in it."""

    def draw(height: int, width: int, seed: int = 0) -> Any:
        noise = np.random.default_rng(seed)
        image = noise.integers(0, 60, (height, width, 3), dtype=np.uint8)
        image[height // 4 : height // 2 + 1, width // 4 : width // 2 + 1] += np.uint8(150)
        image[:, width // 2 :, 2] += np.uint8(40)
        image.setflags(write=False)
        return image

    return draw
