"""What the plugin declares, before anything is loaded, and what a load without OpenCV says."""

from __future__ import annotations

import os
import subprocess
import sys

import msgspec
import pytest

import mataserver_track
from mataserver import (
    Backend,
    InvalidParams,
    ModelFiles,
    ModelSpec,
    Params,
    Part,
    config,
    plugins,
    testing,
)
from mataserver.library.plans import ModelPlan
from mataserver_track.options import Settings, TrackParams


def test_the_plugin_is_sound():
    """It is found as ``track``, its hooks are well formed, and it imports no framework."""
    assert testing.check_plugin("track") == []


def test_importing_the_plugin_imports_no_tracker():
    """The catalogue exists without the library, supervision and cv2."""
    code = (
        "import sys, mataserver_track as p; p.settings(); list(p.backends());"
        "print([m for m in ('trackers', 'supervision', 'cv2') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_preloading_starts_no_thread():
    """A zygote forks: what it imports for this plugin leaves it with one thread."""
    code = (
        "import importlib, os, mataserver_track as p\n"
        "for name in next(iter(p.backends())).preload: importlib.import_module(name)\n"
        "print(len(os.listdir('/proc/self/task')))"
    )
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "1"


def test_its_part_is_the_model_itself():
    """Whatever the model is, the detector is that model for the task detect."""
    [backend] = mataserver_track.backends()
    for source in ("hf", "pip", "local"):
        files = ModelFiles("org/model", source)
        assert backend.serves(files, "track")
        assert not backend.serves(files, "detect")
        assert backend.parts(files, Settings()) == {"detector": Part("org/model", "detect")}


def test_it_is_offered_for_detectors_alone():
    """The server offers tracking for a model that another plugin detects with, and no other."""
    points = [testing.FAKE, *testing.installed("track", "opencv")]
    found = plugins.discover(config.Settings(), points)
    for name in ("fake-detect", "opencv-qr", "opencv-faces"):
        offer = found.find_backend(ModelFiles(name, "pip"), "track")
        assert offer is not None
        assert offer.backend.name == "track"
    for files in (ModelFiles("fake-classify", "pip"), ModelFiles("org/x", "hf", config={})):
        assert found.find_backend(files, "track") is None


@pytest.mark.parametrize(
    "given",
    [
        {"detector_confidence": 1.5},
        {"classes": []},
        {"timing": "never"},
        {"lost_track_buffer": 0},
        {"frame_rate": 0},
        {"minimum_consecutive_frames": 0},
        {"minimum_iou_threshold": -0.1},
        {"lost_track_bufer": 3},
    ],
)
def test_settings_are_strict(given):
    """A value out of range and a misspelt key stop the start instead of the first frame."""
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(given, Settings)


def test_params_cross_the_wire():
    """Params survive the way to a worker."""
    made = TrackParams(confidence=0.5, prompts=["cat"], classes=["cat"], timing="frames")
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(made), type=TrackParams) == made


class Wordy(Params, frozen=True):
    """What a detector of words takes: it cannot do without one."""

    prompts: tuple[str, ...] = ()

    def check(self):
        """Raise without a prompt."""
        if not self.prompts:
            raise InvalidParams("params.prompts: this model needs at least one prompt")


@pytest.mark.parametrize("configured", [{}, {"prompts": ["cat"]}])
def test_what_the_detector_needs_is_demanded_first(configured):
    """Without a prompt no session of a detector of words is made; one of the settings counts."""
    [backend] = mataserver_track.backends()
    words = Backend(name="words", task="detect", source="pip", load=print, params=Wordy)
    setting = config.ModelSettings(model="m", params=configured)
    part = ModelPlan(ModelSpec("m", "detect", "pip"), words, "words", None, setting, 0)
    spec, parts = ModelSpec("m", "track", "pip"), {"detector": part}
    plan = ModelPlan(spec, backend, "track", Settings(), config.ModelSettings(model="m"), 0, parts)
    assert plan.params({"prompts": "cat"}, 100).prompts == ["cat"]
    if configured:
        plan.params({}, 100)
    else:
        with pytest.raises(InvalidParams, match="needs at least one prompt"):
            plan.params({}, 100)


LOAD = """
import logging
from pathlib import Path
from mataserver import LoadContext, ModelSpec, Unavailable
from mataserver_track.options import Settings
from mataserver_track.tracker import load
context = LoadContext(Settings(), "cpu", "auto", 1, Path("."), logging.getLogger("none"))
try:
    load(ModelSpec("m", "track", "pip"), context)
except Unavailable as error:
    print(error.detail)
"""


def test_an_opencv_that_cannot_be_imported_is_told_with_the_cure(tmp_path):
    """Without libGL the load fails with one sentence that names the command, and no path."""
    broken = "raise ImportError('libGL.so.1: cannot open shared object file')"
    (tmp_path / "cv2.py").write_text(broken)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", LOAD], env=environment, capture_output=True, text=True, check=True
    )
    assert "pip install --force-reinstall --no-deps 'opencv-python-headless" in done.stdout
    assert str(tmp_path) not in done.stdout
