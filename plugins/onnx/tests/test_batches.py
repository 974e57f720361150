"""Networks that take one picture only, although their files say that they take any number."""

from __future__ import annotations

import logging

import numpy as np
import pytest

from mataserver import MataError, OutOfMemory
from mataserver_onnx.classify import ClassifyParams

PLAIN = {"resize": "stretch", "mean": [0, 0, 0], "std": [1, 1, 1]}


def solid(colour, height=40, width=60):
    return np.full((height, width, 3), colour, np.uint8)


def test_a_network_that_loses_the_batch_is_run_picture_by_picture(planted, load, tmp_path):
    """Traced with one picture, it runs several together and gives one answer for all."""
    build = planted.Builder((32, 48))
    mean = build.op("ReduceMean", "images", build.constant([2, 3], np.int64), keepdims=0)
    build.give("logits", build.op("Reshape", mean, build.constant([1, -1], np.int64)), ["batch", 3])
    model = load(build.save(tmp_path / "a.onnx"), "classify", **PLAIN)
    pictures = [solid((255, 0, 0)), solid((0, 255, 0)), solid((0, 0, 255))]
    for _ in range(2):
        results = model.predict(pictures, [ClassifyParams(top_k=1)] * 3)
        found = [each.label for result in results for each in result.classifications]
        assert found == ["LABEL_0", "LABEL_1", "LABEL_2"]


def test_a_network_that_fails_for_several_is_run_picture_by_picture(
    planted, load, tmp_path, caplog
):
    """A constant shape that holds the batch of one fails for more, and is tried so only once."""
    build = planted.Builder((32, 48))
    mean = build.op("ReduceMean", "images", build.constant([2, 3], np.int64), keepdims=0)
    build.give("logits", build.op("Reshape", mean, build.constant([1, 3], np.int64)), ["batch", 3])
    model = load(build.save(tmp_path / "a.onnx"), "classify", **PLAIN)
    pictures = [solid((255, 0, 0)), solid((0, 255, 0)), solid((0, 0, 255))]
    caplog.set_level(logging.WARNING)
    for _ in range(3):
        results = model.predict(pictures, [ClassifyParams(top_k=1)] * 3)
        found = [each.label for result in results for each in result.classifications]
        assert found == ["LABEL_0", "LABEL_1", "LABEL_2"]
    assert caplog.text.count("each is run alone from now on") == 1
    assert caplog.text.count("the network has failed") == 1


@pytest.mark.parametrize("threads", [1, 2])
def test_openvino_never_gets_several_for_a_network_of_one(threads, planted, load, tmp_path, caplog):
    """On one thread it answers them with what is in memory, and each later picture, too."""
    build = planted.Builder((32, 48))
    mean = build.op("ReduceMean", "images", build.constant([2, 3], np.int64), keepdims=0)
    build.give("logits", build.op("Reshape", mean, build.constant([1, 3], np.int64)), ["batch", 3])
    path = build.save(tmp_path / "a.onnx")
    model = load(path, "classify", runtime="openvino", threads=threads, **PLAIN)
    pictures = [solid((255, 0, 0)), solid((0, 255, 0)), solid((0, 0, 255))]
    for _ in range(2):
        results = model.predict(pictures, [ClassifyParams(top_k=1)] * 3)
        found = [each.label for result in results for each in result.classifications]
        assert found == ["LABEL_0", "LABEL_1", "LABEL_2"]
    assert not caplog.records


def test_openvino_goes_on_after_a_failure(classifier, load):
    """A network that failed for one picture would fail for every later one."""
    model = load(classifier(), "classify", runtime="openvino", threads=2)
    session, image = model._network._session, solid((255, 0, 0))
    before = model.predict([image], [ClassifyParams()])
    broken = session._request

    class Failing:
        def infer(self, *_: object, **__: object) -> None:
            raise RuntimeError("shape inference")

    session._request = Failing()
    with pytest.raises(MataError, match="the network has failed"):
        model.predict([image], [ClassifyParams()])
    assert model.predict([image], [ClassifyParams()]) == before
    assert session._request is not broken


def test_a_network_that_fails_for_each_is_an_error(planted, load, tmp_path):
    """Run alone it fails as well: that is told, and not tried without end."""
    build = planted.Builder((32, 48))
    mean = build.op("ReduceMean", "images", build.constant([2, 3], np.int64), keepdims=0)
    build.give("logits", build.op("Reshape", mean, build.constant([5, 7], np.int64)), ["batch", 3])
    loaded = load(build.save(tmp_path / "a.onnx"), "classify", activation="none", **PLAIN)
    with pytest.raises(MataError, match="the network has failed"):
        loaded.predict([solid((255, 0, 0))] * 2, [ClassifyParams()] * 2)


def test_memory_that_runs_out_is_no_reason_to_run_each_alone(planted, load, tmp_path, monkeypatch):
    """The server divides such a batch itself, and the next one may fit."""
    model = load(planted.colours(tmp_path / "a.onnx", "classes"), "classify", **PLAIN)
    session = model._network._session
    run, sizes = session.run, []

    def full(feeds):
        sizes.append(len(feeds["images"]))
        if len(sizes) == 1:
            raise OutOfMemory("the network does not fit into memory")
        return run(feeds)

    monkeypatch.setattr(session, "run", full)
    for _ in range(2):
        try:
            model.predict([solid((255, 0, 0))] * 2, [ClassifyParams()] * 2)
        except OutOfMemory:
            assert sizes == [2]
    assert sizes == [2, 2]
