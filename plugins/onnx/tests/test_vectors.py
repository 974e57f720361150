"""Embeddings: which numbers of a network are the vector of the whole picture."""

from __future__ import annotations

import numpy as np
import pytest

from mataserver import MataError
from mataserver_onnx import layouts
from mataserver_onnx.graph import Graph, Port
from mataserver_onnx.options import ModelOptions

PLAIN = {"resize": "stretch", "mean": [0, 0, 0], "std": [1, 1, 1]}


def solid(colour, height=40, width=60):
    return np.full((height, width, 3), colour, np.uint8)


@pytest.mark.parametrize("shape", ["classes", "tokens"])
def test_a_vector_of_length_one(shape, planted, load, tmp_path):
    """A vector, or the first token's, is scaled to length one; zeros have no direction."""
    name = {"classes": "pooler_output", "tokens": "last_hidden_state"}[shape]
    path = planted.colours(tmp_path / "a.onnx", shape, name=name)
    model = load(path, "embed", **PLAIN)
    [result] = model.predict([solid((255, 0, 255))], [None])
    assert result.embedding == pytest.approx([0.5**0.5, 0, 0.5**0.5], abs=1e-6)
    assert result.embedding.dtype == np.float32
    with pytest.raises(MataError, match="vector of zeros"):
        model.predict([solid((0, 0, 0))], [None])


def test_a_map_without_a_token_is_no_vector(planted, load, tmp_path):
    """The last state of a convolutional network was returned as a vector of all its places."""
    build = planted.Builder((32, 48))
    pooled = build.op("AveragePool", "images", kernel_shape=[8, 8], strides=[8, 8])
    build.give("last_hidden_state", pooled, ["batch", 3, 4, 6])
    with pytest.raises(MataError, match="not recognised"):
        load(build.save(tmp_path / "a.onnx"), "embed", **PLAIN)


def patches(build, *, token, name="last_hidden_state", sides=None):
    """Save the mean colour of each of 24 patches as an output, behind that of all for a token."""
    pooled = build.op("AveragePool", "images", kernel_shape=[8, 8], strides=[8, 8])
    shape = build.constant([0, 3, -1], np.int64)
    tokens = build.op("Transpose", build.op("Reshape", pooled, shape), perm=[0, 2, 1])
    if token:
        mean = build.op("ReduceMean", tokens, build.constant([1], np.int64), keepdims=1)
        tokens = build.op("Concat", mean, tokens, axis=1)
    build.give(name, tokens, sides or ["batch", 24 + token, 3])


@pytest.mark.parametrize("sides", [None, ["batch", "tokens", 3]])
@pytest.mark.parametrize("name", ["last_hidden_state", "image_embeds"])
def test_patches_without_a_class_token_are_no_vector(name, sides, planted, load, tmp_path):
    """The first of SigLIP's or Swin's tokens is the upper left corner, and not the picture."""
    image = solid((255, 0, 0), 32, 48)
    image[:8, :8] = (0, 0, 255)
    whole, build = planted.Builder((32, 48)), planted.Builder((32, 48))
    patches(whole, token=1, name=name)
    [result] = load(whole.save(tmp_path / "a.onnx"), "embed", **PLAIN).predict([image], [None])
    expected = np.array([23, 0, 1]) / (23**2 + 1) ** 0.5
    assert result.embedding == pytest.approx(expected, abs=1e-6)
    patches(build, token=0, name=name, sides=sides)
    model = load(build.save(tmp_path / "b.onnx"), "embed", **PLAIN)
    with pytest.raises(MataError, match="24 vectors, one for each patch"):
        model.predict([image], [None])


@pytest.mark.parametrize(
    ("tokens", "side", "said"),
    [
        *((each, 224, "") for each in (1, 50, 197, 198, 201, 257, 261, "n")),
        (49, 224, "49 vectors"),
        (196, 224, "196 vectors"),
        (729, 378, "729 vectors"),
        (730, 378, ""),
    ],
)
def test_they_are_refused_when_they_are_pulled(tokens, side, said):
    """ViT, DeiT and DINOv2 have one or more tokens beside those of their patches."""
    image = Port("pixel_values", ("batch", 3, side, side))
    graph = Graph((image,), (Port("last_hidden_state", ("batch", tokens, 768)),))
    if not said:
        assert layouts.serves(graph, {}, "embed", ModelOptions())
        return
    with pytest.raises(MataError, match=said):
        layouts.serves(graph, {}, "embed", ModelOptions())


@pytest.mark.parametrize("sides", [["batch", 3, 4, 6], ["batch", 3, "h", "w"]])
def test_a_pooler_that_pools_nothing_is_no_vector(sides, planted, load, tmp_path):
    """A map under the name of a vector was returned as a vector of all its places."""
    build = planted.Builder((32, 48))
    pooled = build.op("AveragePool", "images", kernel_shape=[8, 8], strides=[8, 8])
    build.give("pooler_output", pooled, sides)
    path = build.save(tmp_path / "a.onnx")
    with pytest.raises(MataError, match=r"not recognised|a vector for each place"):
        load(path, "embed", **PLAIN).predict([solid((9, 9, 9))], [None])


def test_a_pooled_map_is_a_vector(planted, load, tmp_path):
    """ResNet's vector has two sides of 1 behind it."""
    build = planted.Builder((32, 48))
    build.give("pooler_output", build.op("GlobalAveragePool", "images"), ["batch", 3, 1, 1])
    model = load(build.save(tmp_path / "a.onnx"), "embed", **PLAIN)
    [result] = model.predict([solid((255, 0, 255))], [None])
    assert result.embedding == pytest.approx([0.5**0.5, 0, 0.5**0.5], abs=1e-6)
