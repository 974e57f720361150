"""Fixtures: networks made by hand, tiny exports, and models that the real backends loaded."""

from __future__ import annotations

import importlib.util
import logging
import os
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import pytest

import mataserver_onnx
from hub_stand_in import HubStandIn
from mataserver import LoadContext, ModelSpec
from openapi_watch import documented_answers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["documented_answers"]

BACKENDS = {backend.task: backend for backend in mataserver_onnx.backends()}
TASKS = {
    "rt_detr": "detect",
    "vit": "classify",
    "segformer": "segment",
    "depth_anything": "depth",
    "clip": "embed",
}
RED = (220, 20, 20)


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


@pytest.fixture
def hub(tmp_path, monkeypatch) -> Iterator[HubStandIn]:
    """A stand-in for the hub, in the environment of whatever is started."""
    with HubStandIn() as hub:
        for name in [each for each in os.environ if each.startswith(("HF_", "HUGGINGFACE_"))]:
            monkeypatch.delenv(name)
        for name, value in hub.environment(tmp_path / "hf").items():
            if name.startswith("HF_"):
                monkeypatch.setenv(name, value)
        yield hub


@pytest.fixture(scope="session")
def planted() -> Any:
    """The networks made by hand."""
    return _neighbour("planted")


@pytest.fixture(scope="session")
def exports() -> Any:
    """A network of each family, as its exporter writes it."""
    return _neighbour("exports")


@pytest.fixture(scope="session")
def classifier(planted, tmp_path_factory) -> Callable[..., Path]:
    """``classifier()`` is a directory with a classifier of colours; with ``target`` OpenVINO's."""

    @cache
    def make(target: str = "onnx") -> Path:
        made: Path = planted.directory(tmp_path_factory.mktemp(f"classifier-{target}"), target)
        return made

    return make


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory) -> Callable[[str], Path]:
    """``checkpoint(name)`` is the directory of a tiny checkpoint of transformers."""
    builders = _neighbour("tiny").BUILDERS

    @cache
    def make(name: str) -> Path:
        path: Path = tmp_path_factory.mktemp(name) / name
        builders[name](path)
        return path

    return make


@pytest.fixture(scope="session")
def exported(checkpoint, tmp_path_factory) -> Callable[..., Path]:
    """``exported(name)`` is the directory of an export to ONNX; with ``target`` to OpenVINO."""
    from mataserver_onnx.export import families, photos, tracing

    @cache
    def make(name: str, target: str = "onnx", *, int8: bool = False) -> Path:
        source = checkpoint(name)
        family = families.find(families.read_config(source), TASKS[name])
        path: Path = tmp_path_factory.mktemp(f"{name}-{target}")
        opened = tracing.Checkpoint(source, family)
        opened.write(path, target, photos.read(None), int8=int8)
        return path

    return make


@pytest.fixture(scope="session")
def context(tmp_path_factory) -> Callable[..., LoadContext]:
    """``context(runtime=..., models=...)`` is what the server would hand to ``load``."""

    def make(device: str = "cpu", dtype: str = "auto", **settings: Any) -> LoadContext:
        return LoadContext(
            settings=msgspec.convert(settings, mataserver_onnx.settings()),
            device=device,
            dtype=dtype,
            threads=1,
            data_dir=tmp_path_factory.getbasetemp(),
            log=logging.getLogger("onnx"),
        )

    return make


@pytest.fixture(scope="session")
def load(context) -> Callable[..., Any]:
    """``load(path, task, **options)`` is a loaded model; ``options`` are those of one model."""

    def make(path: Path, task: str, *, dtype: str = "auto", **options: Any) -> Any:
        ctx = context(models={"model": options}, dtype=dtype)
        return BACKENDS[task].load(ModelSpec("model", task, "local", path), ctx)

    return make


@pytest.fixture(scope="session")
def yolo(planted, load, tmp_path_factory) -> Callable[[str], Any]:
    """``yolo(layout)`` is the loaded detector that was made by hand."""

    @cache
    def make(layout: str) -> Any:
        path = tmp_path_factory.getbasetemp() / layout / "model.onnx"
        return load(planted.YOLO[layout](path), "detect")

    return make


@pytest.fixture(scope="session")
def picture() -> Callable[..., Any]:
    """``picture(height, width, box)`` is a grey RGB image with a red rectangle in it."""

    def draw(height: int, width: int, box: tuple[int, int, int, int] | None = None) -> Any:
        image = np.full((height, width, 3), 90, np.uint8)
        image[:: max(2, height // 5), :, 1] = 140
        if box is not None:
            x1, y1, x2, y2 = box
            image[y1:y2, x1:x2] = RED
        image.setflags(write=False)
        return image

    return draw


@pytest.fixture(scope="session")
def photo() -> Any:
    """A real photo that is not square."""
    from mataserver_onnx.export import photos

    return photos.read(None)[1]
