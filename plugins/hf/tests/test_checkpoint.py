"""What is checked when a checkpoint is opened."""

from __future__ import annotations

import json
import os
import shutil

import pytest

from mataserver import MataError, ModelSpec, Unavailable
from mataserver_hf import classify, detect, installation, segment, zero_shot


def spec(path, name="tiny/vit"):
    return ModelSpec(name, "classify", "hf", path)


@pytest.mark.parametrize(
    ("device", "sentence"),
    [
        ("cuda:99", "the device 'cuda:99' was asked for, but torch finds"),
        ("tpu", "the device 'tpu' is none of auto, cpu, cuda and cuda:N"),
        ("cpu:1", "the device 'cpu:1' is none of"),
    ],
)
def test_impossible_device(device, sentence, checkpoint, context):
    """A device that this machine does not have is a 503 that says so."""
    with pytest.raises(Unavailable, match=sentence):
        classify.load(spec(checkpoint("vit")), context(device=device))


def test_auto_takes_what_there_is(checkpoint, context):
    """The device "auto" is a GPU where torch finds one, else the CPU in float32."""
    import torch

    loaded = classify.load(spec(checkpoint("vit")), context(device="auto"))
    expected = "cuda" if torch.cuda.is_available() else "cpu"
    assert loaded._network._module.device.type == expected
    assert loaded._network._module.dtype == torch.float32


def test_auto_is_float32_on_cpu(tiny, context, tmp_path):
    """A checkpoint saved in 16 bits runs in 32 bits on a CPU, and in 16 where that is asked for."""
    import torch
    from transformers import AutoImageProcessor, AutoModelForImageClassification

    path, half = tmp_path / "full", tmp_path / "half"
    tiny.vit(path)
    network = AutoModelForImageClassification.from_pretrained(path, dtype=torch.bfloat16)
    network.save_pretrained(half)
    AutoImageProcessor.from_pretrained(path).save_pretrained(half)
    loaded = classify.load(spec(half), context(device="cpu"))
    assert loaded._network._module.dtype == torch.float32
    loaded = classify.load(spec(half), context(device="cpu", dtype="bfloat16"))
    assert loaded._network._module.dtype == torch.bfloat16


def test_unknown_dtype(checkpoint, context):
    """A number format that nobody knows is an error that lists the known ones."""
    with pytest.raises(Unavailable, match="'int3' is none of auto, float32, float16, bfloat16"):
        classify.load(spec(checkpoint("vit")), context(dtype="int3"))


def test_threads(checkpoint, context):
    """A number of threads is torch's from then on; zero leaves torch alone."""
    import torch

    before = torch.get_num_threads()
    try:
        classify.load(spec(checkpoint("vit")), context(threads=before + 1))
        assert torch.get_num_threads() == before + 1
        classify.load(spec(checkpoint("vit")), context(threads=0))
        assert torch.get_num_threads() == before + 1
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("file", "part"),
    [
        ("config.json", "weights"),
        ("model.safetensors", "weights"),
        ("preprocessor_config.json", "image processor configuration"),
        ("tokenizer.json", "tokenizer"),
    ],
)
@pytest.mark.parametrize("damage", ["missing", "garbage"])
def test_damaged_checkpoint(file, part, damage, checkpoint, context, tmp_path):
    """A missing or broken file is named by what it holds, in a sentence without a path."""
    path = tmp_path / "clip"
    shutil.copytree(checkpoint("clip"), path)
    (path / file).unlink()
    if damage == "garbage":
        (path / file).write_bytes(b"{garbage")
    with pytest.raises(MataError) as caught:
        zero_shot.load(spec(path, "tiny/clip"), context())
    assert caught.value.status == 500
    assert (
        caught.value.detail == f"the {part} of tiny/clip cannot be read; the server's log says why"
    )


class Planted:
    """Makes a directory as it is unpickled."""

    def __init__(self, path):
        self._path = path

    def __reduce__(self):
        """Name what unpickling calls."""
        return os.mkdir, (str(self._path),)


def test_a_pickle_with_code(checkpoint, context, tmp_path):
    """Weights that would run something are refused as damaged ones are, and nothing is run."""
    import torch
    from safetensors.torch import load_file

    path, mark = tmp_path / "vit", tmp_path / "mark"
    shutil.copytree(checkpoint("vit"), path)
    weights = load_file(path / "model.safetensors")
    (path / "model.safetensors").unlink()
    torch.save(weights, path / "pytorch_model.bin")
    classify.load(spec(path), context())
    torch.save(weights | {"planted": Planted(mark)}, path / "pytorch_model.bin")
    with pytest.raises(MataError, match="the weights of tiny/vit cannot be read"):
        classify.load(spec(path), context())
    assert not mark.exists()


def test_model_without_a_directory(context):
    """A specification without a path cannot be loaded from."""
    with pytest.raises(MataError, match="tiny/vit has no directory"):
        classify.load(spec(None), context())


@pytest.mark.parametrize(
    ("name", "load"),
    [("vit", classify.load), ("detr", detect.load), ("segformer", segment.load)],
)
@pytest.mark.parametrize("numbers", [(1, 2, 3, 4), (0, 1, 3, 7)])
def test_names_of_classes_that_the_network_lacks(
    name, load, numbers, checkpoint, context, tmp_path
):
    """Names that begin with 1, or with gaps, are refused: they would be told of other classes."""
    path = tmp_path / name
    shutil.copytree(checkpoint(name), path)
    config = json.loads((path / "config.json").read_text())
    words = dict(zip(map(str, numbers), ("cat", "dog", "person", "car"), strict=True))
    config |= {"id2label": words, "label2id": {word: int(key) for key, word in words.items()}}
    (path / "config.json").write_text(json.dumps(config))
    told = f"names the class {numbers[-1]}, but the network tells the classes 0 to 3 apart"
    with pytest.raises(MataError, match=told):
        load(spec(path), context())


def test_code_of_a_checkpoint_is_never_run(checkpoint, context, tmp_path):
    """Python files that a checkpoint brings and names are left alone."""
    import json

    path = tmp_path / "code"
    shutil.copytree(checkpoint("vit"), path)
    config = json.loads((path / "config.json").read_text())
    config["model_type"] = "surprise"
    config["auto_map"] = {
        "AutoConfig": "surprise.Config",
        "AutoModelForImageClassification": "surprise.Model",
    }
    (path / "config.json").write_text(json.dumps(config))
    (path / "surprise.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()")
    with pytest.raises(MataError, match="the weights of tiny/vit cannot be read"):
        classify.load(spec(path), context())
    assert not (tmp_path / "ran").exists()


def test_close_gives_the_weights_up(checkpoint, context):
    """A closed model holds no network any more."""
    loaded = classify.load(spec(checkpoint("vit")), context())
    loaded.close()
    assert loaded._network._module is None


def test_broken_torchvision_is_named(checkpoint, context, tmp_path, monkeypatch):
    """A torchvision that cannot be imported is reported with its cure before anything else."""
    package = tmp_path / "torchvision"
    package.mkdir()
    (package / "__init__.py").write_text(
        "raise RuntimeError('operator torchvision::nms does not exist')"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(Unavailable, match="torchvision is installed but cannot be imported") as e:
        classify.load(spec(checkpoint("vit")), context())
    assert "pip uninstall torchvision" in e.value.detail


def test_sound_torchvision_passes(tmp_path, monkeypatch):
    """A torchvision that can be imported is no reason to refuse."""
    import sys

    (tmp_path / "torchvision.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(sys.modules, "torchvision", None)  # put back whatever was there
    monkeypatch.delitem(sys.modules, "torchvision")
    installation.check()
