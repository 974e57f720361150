"""Fixtures: tiny checkpoints, made once a session, and models that the plugin loaded."""

from __future__ import annotations

import importlib.util
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import pytest

from mataserver import LoadContext
from openapi_watch import documented_answers

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["documented_answers"]

HERE = str(Path(__file__).parent)
if HERE not in sys.path:  # behind all others, whose tests have a conftest too
    sys.path.append(HERE)


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


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """Tiny networks are quicker on one thread, above all beside other work."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def tiny() -> Any:
    """The builders of checkpoints."""
    return _neighbour("tiny")


@pytest.fixture(scope="session")
def movies() -> Any:
    """What writes videos."""
    return _neighbour("movies")


@pytest.fixture(scope="session")
def video_api() -> Any:
    """What calls the routes of video sessions."""
    return _neighbour("video_api")


@pytest.fixture(scope="session")
def video_folder(movies, tmp_path_factory) -> Path:
    """The directory of the videos: "roots" below it may be read; it holds one of 8 frames."""
    folder: Path = tmp_path_factory.mktemp("videos")
    (folder / "roots").mkdir()
    movies.write(folder / "roots" / "moving.mp4", 8)
    return folder


@pytest.fixture(scope="session")
def video_path(video_folder) -> Path:
    """A video of 8 frames under an allowed directory."""
    path: Path = video_folder / "roots" / "moving.mp4"
    return path


@pytest.fixture(scope="session")
def long_video_path(movies, video_folder) -> Path:
    """A video of 60 frames: what is done meanwhile is done before they are."""
    path: Path = movies.write(video_folder / "roots" / "long.mp4", 60, "mpeg4")
    return path


@pytest.fixture(scope="session")
def video_server(video_api, tmp_path_factory, sam3_path, video_folder) -> Any:
    """``video_server(**settings)`` is a server, not started yet, with a SAM3 behind its API."""

    def make(folder: Path | None = None, engine: str = "thread", **chosen: Any) -> Any:
        roots = [str(video_folder / "roots")]
        settings = {"model": str(sam3_path), "video_roots": roots, **chosen}
        return video_api.served(folder or tmp_path_factory.mktemp("server"), engine, settings)

    return make


@pytest.fixture(scope="session")
def sam3_path(tiny, tmp_path_factory) -> Path:
    """A tiny SAM3 checkpoint."""
    path: Path = tmp_path_factory.mktemp("sam3")
    tiny.sam3(path)
    return path


@pytest.fixture(scope="session")
def sam2_path(tiny, tmp_path_factory) -> Path:
    """A tiny SAM 2 checkpoint, for images and videos."""
    path: Path = tmp_path_factory.mktemp("sam2")
    tiny.sam2(path)
    return path


@pytest.fixture(scope="session")
def sam1_path(tiny, tmp_path_factory) -> Path:
    """A tiny SAM 1 checkpoint."""
    path: Path = tmp_path_factory.mktemp("sam1")
    tiny.sam1(path)
    return path


@pytest.fixture(scope="session")
def context(tmp_path_factory) -> Any:
    """``context(**settings)`` is what the server gives to ``load``."""
    from mataserver_sam.settings import Settings

    folder = tmp_path_factory.mktemp("data")

    def make(**settings: Any) -> LoadContext:
        chosen = msgspec.convert(settings, Settings)
        return LoadContext(chosen, "cpu", "auto", 0, folder, logging.getLogger("sam"))

    return make


@pytest.fixture(scope="session")
def picture() -> Any:
    """``picture(height, width, seed)`` is an RGB image of coarse, smooth patches."""
    import cv2

    def make(height: int = 90, width: int = 120, seed: int = 0) -> Any:
        coarse = np.random.default_rng(seed).integers(0, 256, (7, 9, 3), dtype=np.uint8)
        return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)

    return make


@pytest.fixture(scope="session")
def png() -> Any:
    """``png(image)`` encodes an RGB image."""
    import cv2

    return lambda image: cv2.imencode(".png", image[:, :, ::-1])[1].tobytes()


@pytest.fixture(scope="session")
def sam3_weights(sam3_path) -> Any:
    """The tiny SAM3, loaded as the plugin loads it, in this process."""
    from mataserver_sam.loading import load_sam3

    return load_sam3(sam3_path, "cpu", "float32")
