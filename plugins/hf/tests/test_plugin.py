"""What the plugin declares, before anything is loaded."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.metadata import entry_points

import msgspec
import pytest

import mataserver_hf
from mataserver import ModelFiles, testing
from mataserver.config import ConfigError, Settings
from mataserver.library.catalog import Catalog
from mataserver.library.registry import Registry
from mataserver.plugins import discover
from mataserver.serving.loader import placement
from mataserver_hf import (
    classify,
    depth,
    detect,
    got_ocr2,
    installation,
    pose,
    trocr,
    vlm,
    zero_shot,
)

PROBE = """
import json, os, sys
import mataserver_hf
backends = list(mataserver_hf.backends())
light = sorted({name.partition(".")[0] for name in sys.modules})
import importlib
for name in backends[0].preload:
    importlib.import_module(name)
import torch
print(json.dumps({
    "light": light,
    "threads": len(os.listdir("/proc/self/task")),
    "cuda": torch.cuda.is_initialized(),
}))
"""


def test_backends():
    """Every task has its backends, with names of their own and one zygote between them."""
    backends = list(mataserver_hf.backends())
    assert len({each.name for each in backends}) == len(backends)
    assert {(each.name, each.task) for each in backends} == {
        ("hf-detect", "detect"),
        ("hf-owl", "detect"),
        ("hf-grounding-dino", "detect"),
        ("hf-classify", "classify"),
        ("hf-zero-shot-classify", "classify"),
        ("hf-segment", "segment"),
        ("hf-zero-shot-segment", "segment"),
        ("hf-depth", "depth"),
        ("hf-embed", "embed"),
        ("hf-pose", "pose"),
        ("hf-trocr", "ocr"),
        ("hf-got-ocr2", "ocr"),
        ("hf-vlm", "vlm"),
    }
    assert len({(each.preload, each.environment) for each in backends}) == 1
    assert all(each.requires == installation.REQUIRES for each in backends)


TASKS = {
    "classify": "classify",
    "depth": "depth",
    "detect": "detect",
    "embed": "embed",
    "hf_ocr": "ocr",
    "pose": "pose",
    "segment": "segment",
    "vlm": "vlm",
}
"""Every plugin of the distribution, and the task that it serves."""


def test_entry_points():
    """There is a plugin a task, each a module of its own with that task's backends alone."""
    found = [each for each in entry_points(group="mataserver") if each.dist.name == "mataserver-hf"]
    assert {each.name for each in found} == set(TASKS)
    assert len({each.value for each in found}) == len(TASKS)
    backends = {each.name: each.load().backends() for each in found}
    assert {name: {each.task for each in given} for name, given in backends.items()} == {
        name: {task} for name, task in TASKS.items()
    }
    names = [backend.name for given in backends.values() for backend in given]
    assert sorted(names) == sorted(each.name for each in mataserver_hf.backends())


def discovered(**settings):
    """The plugins of this distribution and their backends, as a server finds them."""
    return discover(Settings(plugins=settings), testing.installed("hf"), {})


def test_one_section_has_the_settings_of_all():
    """What ``plugins.hf`` says reaches every plugin; below their own names there is nothing."""
    found = discovered(hf={"person_label": "human"}).found
    assert [each.name for each in found] == sorted(TASKS)
    assert {each.settings.person_label for each in found} == {"human"}
    assert {(each.section, each.family) for each in found} == {("hf", "hf")}
    with pytest.raises(ConfigError, match=r"plugins.hf.person_label: expected `str`"):
        discovered(hf={"person_label": 5})
    with pytest.raises(ConfigError, match=r"plugins.pose: its settings are those of plugins.hf"):
        discovered(pose={"person_label": "human"})


def test_wrong_settings_are_told_once():
    """Eight plugins take them; ``mataserver check`` names the fault one time."""
    problems = []
    settings = Settings(plugins={"hf": {"compile": "perhaps"}})
    discover(settings, testing.installed("hf"), {}, problems)
    assert [each.detail for each in problems] == [
        "configuration: plugins.hf.compile: expected `bool`, got `str`"
    ]


def test_each_is_switched_off_by_itself():
    """By its own name; by the distribution's all are, and their settings are no mistake."""
    some = discovered(disabled=["vlm", "pose"], hf={"compile": True})
    assert {each.name for each in some.found if each.error} == {"vlm", "pose"}
    assert not {"vlm", "pose"} & {each.backend.task for each in some.provided}
    assert len(some.provided) == 11
    none = discovered(disabled=["hf"], hf={"compile": True})
    assert all("plugins.disabled" in each.error for each in none.found)
    assert (len(none.found), none.provided) == (len(TASKS), [])


def test_one_that_is_broken_breaks_no_other(monkeypatch):
    """What its module cannot import is told of it alone."""
    monkeypatch.setitem(sys.modules, "mataserver_hf.trocr", None)
    monkeypatch.delattr(mataserver_hf, "trocr")
    monkeypatch.delitem(sys.modules, "mataserver_hf.tasks.hf_ocr", raising=False)
    found = discovered()
    assert {each.name for each in found.found if each.error} == {"hf_ocr"}
    [broken] = [each for each in found.found if each.error]
    assert "ImportError" in broken.error or "ModuleNotFoundError" in broken.error
    assert len(found.provided) == 11


def test_they_share_a_zygote(checkpoint, tmp_path):
    """Models of several plugins of the distribution are forked from one process."""
    catalog = Catalog(
        Settings(data_dir=str(tmp_path)), Registry(tmp_path / "registry.json"), discovered()
    )
    places = set()
    for name, task in (("rt_detr", "detect"), ("vit", "classify"), ("depth_anything", "depth")):
        catalog.add_local(checkpoint(name), task)
        plan = catalog.plan(name)
        assert plan.plugin == task
        places.add(placement(plan))
    assert len(places) == 1
    assert {each.family for each in places} == {"hf"}


def test_imports():
    """Listing the backends imports no framework; preloading them starts no thread and no CUDA."""
    answer = subprocess.run(
        [sys.executable, "-c", PROBE],
        capture_output=True,
        check=True,
        text=True,
        env={**os.environ, **dict(installation.ENVIRONMENT), "OPENBLAS_NUM_THREADS": "1"},
    )
    found = json.loads(answer.stdout)
    assert not {"torch", "transformers", "torchvision", "PIL", "scipy"} & set(found["light"])
    assert found["threads"] == 1
    assert found["cuda"] is False


def test_each_family_has_one_backend():
    """A model type is served by one backend for a task, whatever the model is called."""
    tasks = {
        "detect": detect.FAMILIES,
        "classify": classify.FAMILIES | classify.IMAGE_TEXT_FAMILIES,
        "depth": depth.FAMILIES,
        "pose": pose.FAMILIES,
        "ocr": got_ocr2.FAMILIES,
        "vlm": vlm.FAMILIES,
    }
    for task, families in tasks.items():
        for family in families:
            files = ModelFiles("someone/something", "hf", config={"model_type": family})
            serving = [each.name for each in mataserver_hf.backends() if each.serves(files, task)]
            assert len(serving) == 1, (family, serving)


def test_the_name_says_nothing():
    """A model is chosen by its configuration, never by a part of its name."""
    for name in ("facebook/detr-resnet-50", "openai/clip-vit-base-patch32", "Intel/dpt-large"):
        for config in ({}, {"model_type": "bert"}, {"model_type": None}):
            files = ModelFiles(name, "hf", config=config)
            assert not any(each.serves(files, each.task) for each in mataserver_hf.backends())


def test_families_match_transformers():
    """Every family of the detectors and depth estimators is a model type of transformers."""
    from transformers.models.auto import modeling_auto

    known = modeling_auto.MODEL_FOR_OBJECT_DETECTION_MAPPING_NAMES
    assert detect.FAMILIES.issubset(known)
    known = modeling_auto.MODEL_FOR_DEPTH_ESTIMATION_MAPPING_NAMES
    assert depth.FAMILIES.issubset(known)
    known = modeling_auto.MODEL_FOR_ZERO_SHOT_IMAGE_CLASSIFICATION_MAPPING_NAMES
    assert classify.IMAGE_TEXT_FAMILIES.issubset(known)
    assert zero_shot.IMAGE_TEXT_FAMILIES is classify.IMAGE_TEXT_FAMILIES


@pytest.mark.parametrize(
    ("params", "sent"),
    [
        (detect.DetectParams, {"confidence": 0.25}),
        (classify.ClassifyParams, {"confidence": 0.25, "top_k": 3, "use_softmax": False}),
        (zero_shot.ZeroShotParams, {"prompts": ["cat", "dog"], "prompt_template": "a {}"}),
        (depth.DepthParams, {"normalize": False, "target_size": [480, 640]}),
        (pose.PoseParams, {"confidence": 0.25}),
        (trocr.TrOcrParams, {"max_tokens": 9}),
        (got_ocr2.GotOcr2Params, {"max_tokens": 9, "ocr_type": "format"}),
        (vlm.VlmParams, {"prompt": "What is it?", "temperature": 0.5, "seed": 7}),
    ],
)
def test_params_cross_the_wire(params, sent):
    """Params made of JSON values survive the way to a worker, and misspelt ones are refused."""
    made = msgspec.convert(sent, params)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(made), type=params) == made
    assert made != params()
    with pytest.raises(msgspec.ValidationError, match="confidense"):
        msgspec.convert({"confidense": 1}, params)


def test_weights_of_another_runtime_are_not_ours(tmp_path):
    """A directory with the weights of another runtime alone is left to the plugin that reads it."""
    files = ModelFiles("someone/detector", "hf", tmp_path, {"model_type": "detr"})
    for name in ("model.onnx", "openvino_model.bin"):
        (tmp_path / name).touch()
    assert not any(each.serves(files, "detect") for each in mataserver_hf.backends())
    (tmp_path / "model.safetensors").touch()
    assert sum(each.serves(files, "detect") for each in mataserver_hf.backends()) == 1
