"""Networks that ``torch.compile`` turns into machine code while the model is loaded."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from mataserver import MataError, ModelSpec, testing
from mataserver_client import AsyncClient
from mataserver_hf import classify, detect
from mataserver_hf.compilation import Compiler
from mataserver_hf.options import Settings

# torch warns of itself when its compiler is imported.
pytestmark = [
    pytest.mark.filterwarnings("ignore:`torch.jit.script_method:DeprecationWarning"),
    pytest.mark.long,
]


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch):
    """Compiled programs lie in the data directory of each test, and none is left from another."""
    import torch

    torch.compiler.reset()
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "")  # so that it is put back afterwards
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR")


class Backend:
    """Compiles nothing, and counts the programs and how often they run."""

    def __init__(self):
        self.programs = 0
        self.runs = 0

    def __call__(self, graph, _inputs):
        self.programs += 1

        def run(*tensors):
            self.runs += 1
            return graph(*tensors)

        return run


def spec(path, task):
    return ModelSpec("tiny/compiled", task, "hf", path)


def test_batches_of_any_size_run_one_program(checkpoint, model, context, picture):
    """One image and several have a program each; answers are alike, and none is made later."""
    compiled = classify.load(spec(checkpoint("vit"), "classify"), context(threads=1))
    params, backend = classify.ClassifyParams(use_softmax=False), Backend()
    Compiler(context(max_batch=4), backend).compile("vit", compiled, compiled._network, params)
    assert (backend.programs, backend.runs) == (2, 2)
    for count in (1, 2, 3, 4):
        images = [picture(50 + index, 70, seed=index) for index in range(count)]
        found, wanted = (m.predict(images, [params] * count) for m in (compiled, model("vit")))
        for one, other in zip(found, wanted, strict=True):
            assert scores(one) == pytest.approx(scores(other), abs=1e-5)
    assert (backend.programs, backend.runs) == (2, 6)


def test_single_images_need_one_program(checkpoint, context):
    """A model that never gets a batch is not compiled for one; a batch then runs uncompiled."""
    compiled = classify.load(spec(checkpoint("vit"), "classify"), context(threads=1))
    params, backend = classify.ClassifyParams(), Backend()
    Compiler(context(max_batch=1), backend).compile("vit", compiled, compiled._network, params)
    assert (backend.programs, backend.runs) == (1, 1)
    images = [np.zeros((40, 60, 3), np.uint8)] * 3
    assert len(compiled.predict(images, [params] * 3)) == 3
    assert (backend.programs, backend.runs) == (1, 1)


def test_images_of_any_shape_run_one_program(checkpoint, model, context, picture):
    """A network that sees images in their own aspect ratio is compiled once for all of them."""
    compiled = detect.load(spec(checkpoint("detr"), "detect"), context(threads=1))
    params, backend = detect.DetectParams(confidence=0.0), Backend()
    Compiler(context(), backend).compile("detr", compiled, compiled._network, params)
    programs, runs = backend.programs, backend.runs
    for height, width in ((64, 96), (96, 64), (40, 47)):
        images = [picture(height, width)]
        [found], [wanted] = (m.predict(images, [params]) for m in (compiled, model("detr")))
        assert [d.label for d in found.detections] == [d.label for d in wanted.detections]
        boxes, others = ([d.bbox for d in result.detections] for result in (found, wanted))
        np.testing.assert_allclose(boxes, others, atol=1e-3)
    assert backend.programs == programs
    assert backend.runs == 4 * runs


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")
@pytest.mark.timeout(180)
async def test_a_compiled_model_is_served(tiny, tmp_path):
    """A worker compiles its model to machine code, answers alike, and keeps the program."""
    tiny.vit(tmp_path / "vit", num_hidden_layers=1)
    common = {"task": "classify", "path": str(tmp_path / "vit"), "threads": 1}
    models = [{"model": "plain", **common}, {"model": "fast", "compile": True, **common}]
    image = b"P6\n4 2\n255\n" + bytes(range(0, 240, 10))
    points = testing.installed("hf")
    async with (
        testing.serving(
            tmp_path / "data", entry_points=points, engine="process", models=models
        ) as served,
        AsyncClient(served.url, api_key=served.key) as client,
    ):
        plain, fast = [await client.infer(name, image) for name in ("plain", "fast")]
    assert scores(fast) == pytest.approx(scores(plain), abs=1e-5)
    assert any((tmp_path / "data" / "hf" / "compiled").rglob("*.so"))


def scores(result):
    """Return the scores of a classification by their labels."""
    return {each.label: each.confidence for each in result.classifications}


def test_without_a_compiler_the_load_fails(checkpoint, context, monkeypatch):
    """A machine without a C++ compiler is told what is missing: nothing runs uncompiled unsaid."""
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.setenv("TORCHINDUCTOR_FORCE_DISABLE_CACHES", "1")
    with pytest.raises(MataError, match="needs a C\\+\\+ compiler") as caught:
        classify.load(spec(checkpoint("resnet"), "classify"), context(compile=True))
    assert caught.value.status == 500
    assert str(context().data_dir) not in caught.value.detail


@pytest.mark.parametrize(
    ("of_model", "of_plugin", "wanted"),
    [
        (None, False, False),
        (None, True, True),
        (True, False, True),
        (False, True, False),
    ],
)
def test_the_models_setting_comes_before_the_plugins(of_model, of_plugin, wanted, context):
    """``models[].compile`` counts, and ``plugins.hf.compile`` where it says nothing."""
    ctx = context(compile=of_model, settings=Settings(compile=of_plugin))
    assert Compiler(ctx).wanted is wanted
