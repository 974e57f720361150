"""Which files of a repository are downloaded."""

from __future__ import annotations

import pytest

from mataserver.sources.selection import RepoFile, has_weights, select

SMALL = ["config.json", "tokenizer.json", "merges.txt", "README.md"]


def chosen(*names: str) -> set[str]:
    return {file.name for file in select(RepoFile(name, 1, name) for name in names)}


@pytest.mark.parametrize(
    ("weights", "kept"),
    [
        (["model.safetensors", "pytorch_model.bin", "tf_model.h5"], ["model.safetensors"]),
        (["pytorch_model.bin", "flax_model.msgpack"], ["pytorch_model.bin"]),
        (["model.safetensors", "sam2_hiera.pt"], ["model.safetensors"]),
        (["model.safetensors", "model.fp16.safetensors"], ["model.safetensors"]),
        (["model.fp16.safetensors", "pytorch_model.bin"], ["pytorch_model.bin"]),
        (["model.fp16.safetensors"], ["model.fp16.safetensors"]),
        (["model.safetensors", "consolidated.safetensors"], ["model.safetensors"]),
        (["model.safetensors", "onnx/model.onnx", "onnx/config.json"], ["model.safetensors"]),
        (["model.safetensors", "openvino/model.bin", "original/x.pth"], ["model.safetensors"]),
        (["model.safetensors", "coreml/a.mlpackage/weight.bin"], ["model.safetensors"]),
        (["model.safetensors", "model.gguf", "rust_model.ot"], ["model.safetensors"]),
        (["onnx/model.onnx", "onnx/model.onnx_data"], ["onnx/model.onnx", "onnx/model.onnx_data"]),
        (
            ["model.safetensors", "vision/pytorch_model.bin"],
            ["model.safetensors", "vision/pytorch_model.bin"],
        ),
        (
            ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "x.bin"],
            ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"],
        ),
    ],
)
def test_each_weight_is_taken_in_one_format(weights, kept):
    """Safetensors come first, pickles next, variants and other runtimes only if alone."""
    assert chosen(*SMALL, *weights) == {*SMALL, *kept}


@pytest.mark.parametrize(
    "name",
    [
        *("optimizer.pt", "training_args.bin", "rng_state_0.pth", "trainer_state.json"),
        *("modeling_custom.py", "demo.PNG", "assets/clip.mp4", ".gitattributes"),
        "runs/events.out.tfevents.1.host",
    ],
)
def test_what_no_model_needs_is_left_out(name):
    """Training state, code that is never run, and pictures are not downloaded."""
    assert chosen(*SMALL, "model.safetensors", name) == {*SMALL, "model.safetensors"}


def test_repository_without_weights_is_recognised():
    """Weights are told by their format."""
    assert not has_weights([RepoFile("config.json", 1, "a")])
    assert has_weights([RepoFile("sub/model.onnx", 1, "a")])
