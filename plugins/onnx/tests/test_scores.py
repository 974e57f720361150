"""What a classifier's end is, by its file and by a try, whatever stands behind its softmax."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from mataserver import MataError
from mataserver_onnx import ends, graph, ir, layouts, scores
from mataserver_onnx.classify import ClassifyParams
from mataserver_onnx.openvino_session import import_openvino
from mataserver_onnx.options import ModelOptions
from mataserver_onnx.segment import SegmentParams

PLAIN = {"resize": "stretch", "mean": [0, 0, 0], "std": [1, 1, 1]}
LOGITS = np.array([4, 0.8, 1.6])
SOFTMAX = np.exp(LOGITS) / np.exp(LOGITS).sum()
SIGMOID = 1 / (1 + np.exp(-LOGITS))
IMAGE = np.full((40, 60, 3), (255, 51, 102), np.uint8)


def node(kind, *inputs, **attributes):
    return kind, inputs, attributes


def ending(planted, path, *steps, sides=("batch", 3)):
    """A classifier of colours whose logits go through ``steps``, each fed by the one before."""
    model = onnx.load(planted.colours(path, "classes"))
    value = model.graph.node[-1].input[0]
    model.graph.node.pop()
    for number, (op, inputs, attributes) in enumerate(steps):
        names = [value, *(f"extra{number}_{place}" for place in range(len(inputs)))]
        weights = zip(inputs, names[1:], strict=True)
        model.graph.initializer.extend(
            numpy_helper.from_array(np.array(given), name) for given, name in weights
        )
        value = f"step{number}"
        model.graph.node.append(helper.make_node(op, names, [value], **attributes))
    model.graph.node[-1].output[0] = "answer"
    del model.graph.output[:]
    model.graph.output.append(helper.make_tensor_value_info("answer", 1, list(sides)))
    onnx.save(model, path)
    return path


def answers(model, **params):
    """The scores of the picture in the order of the classes."""
    [result] = model.predict([IMAGE], [ClassifyParams(**params)])
    found = {each.label: each.confidence for each in result.classifications}
    return [found[f"LABEL_{index}"] for index in range(3)]


F32, F16 = np.float32, np.float16
SOFT = node("Softmax", axis=-1)
LAST = node("Transpose", perm=[1, 0])
PLACES = node("Reshape", np.array([-1, 3, 1, 1]))
QUANTISED = (F32(1 / 255), np.uint8(0))

CHAINS = {
    "cast": [SOFT, node("Cast", to=TensorProto.FLOAT)],
    "identity": [SOFT, node("Identity")],
    "reshape": [SOFT, node("Reshape", np.array([-1, 3]))],
    "flatten": [SOFT, node("Flatten")],
    "clip": [SOFT, node("Clip", F32(0), F32(1))],
    "squeeze": [SOFT, node("Unsqueeze", np.array([1])), node("Squeeze", np.array([1]))],
    "dropout": [SOFT, node("Dropout")],
    "places": [PLACES, node("Softmax", axis=1), node("Flatten")],
    "turned": [LAST, node("Softmax", axis=0), LAST],
    "halves": [
        node("Cast", to=TensorProto.FLOAT16),
        SOFT,
        node("Cast", to=TensorProto.FLOAT),
        node("Identity"),
    ],
    "quantised": [
        SOFT,
        node("QuantizeLinear", *QUANTISED),
        node("DequantizeLinear", *QUANTISED),
    ],
    "logarithm": [node("LogSoftmax", axis=-1), node("Exp"), node("Identity")],
    "a merging of classes": [SOFT, node("MatMul", np.eye(3, dtype=F32))],
    "a merging with a bias": [
        SOFT,
        node("MatMul", np.eye(3, dtype=F32)),
        node("Add", np.zeros(3, F32)),
    ],
    "doubled and halved": [SOFT, node("Mul", F32(2)), node("Mul", F32(0.5))],
    "times one": [SOFT, node("Mul", F32(1))],
}


@pytest.mark.parametrize("name", CHAINS)
def test_what_ends_in_probabilities_gets_no_second_softmax(name, planted, load, tmp_path):
    """Operators behind a softmax that give its values on change nothing of that."""
    model = load(ending(planted, tmp_path / "a.onnx", *CHAINS[name]), "classify", **PLAIN)
    assert answers(model) == pytest.approx(SOFTMAX, abs=0.003)
    with pytest.raises(MataError, match="gives probabilities only"):
        answers(model, use_softmax=False)


@pytest.mark.parametrize(
    "steps",
    [
        [],
        [node("LogSoftmax", axis=-1)],
        [node("Identity"), node("Reshape", np.array([-1, 3]))],
        [
            node("QuantizeLinear", F32(1 / 32), np.uint8(0)),
            node("DequantizeLinear", F32(1 / 32), np.uint8(0)),
        ],
        [node("Clip", F32(-50), F32(50))],
        [PLACES],
    ],
)
def test_logits_get_their_softmax(steps, planted, load, tmp_path):
    """What does not end in one gets one: logits in any form, and logarithms of probabilities."""
    sides = ("batch", 3, 1, 1) if steps == [PLACES] else ("batch", 3)
    steps = steps or [node("Identity")]
    path = ending(planted, tmp_path / "a.onnx", *steps, sides=sides)
    model = load(path, "classify", **PLAIN)
    assert answers(model) == pytest.approx(SOFTMAX, abs=0.02)
    assert answers(model, use_softmax=False)[0] == pytest.approx(
        4 if steps[0][0] != "LogSoftmax" else np.log(SOFTMAX[0]), abs=0.05
    )


def classes_of_pixels(planted, path, *steps):
    """A network whose answer for each pixel is its colour, four times, and then ``steps``."""
    model = onnx.load(planted.colours(path, "map"))
    last = model.graph.node.pop()
    factor = numpy_helper.from_array(np.array(4, np.float32), "factor")
    model.graph.initializer.append(factor)
    model.graph.node.append(helper.make_node("Mul", [last.input[0], "factor"], ["step"]))
    value = "step"
    for number, (op, _, attributes) in enumerate(steps):
        model.graph.node.append(helper.make_node(op, [value], [f"s{number}"], **attributes))
        value = f"s{number}"
    model.graph.node[-1].output[0] = last.output[0]
    onnx.save(model, path)
    return path


@pytest.mark.parametrize("steps", [[], [node("Softmax", axis=1), node("Identity")]])
def test_classes_of_pixels_get_one_softmax(steps, planted, load, tmp_path):
    """A segment's confidence is the same whether the network ends in a softmax or not."""
    path = classes_of_pixels(planted, tmp_path / "a.onnx", *steps)
    [result] = load(path, "segment", **PLAIN).predict([IMAGE], [SegmentParams()])
    [found] = result.segments
    assert (found.label, found.confidence) == ("LABEL_0", pytest.approx(SOFTMAX[0], abs=1e-5))


IDLE = {
    "times one": ("Mul", F32(1)),
    "times one in a list": ("Mul", F32([1])),
    "times one, of another kind": ("Mul", np.float64(1)),
    "by one": ("Div", F32(1)),
    "and nothing": ("Add", F32(0)),
    "less nothing": ("Sub", F32(0)),
    "to the power of one": ("Pow", F32(1)),
}


@pytest.mark.parametrize("name", IDLE)
@pytest.mark.parametrize("noted", [False, True])
def test_what_changes_nothing_behind_a_sigmoid(name, noted, planted, load, tmp_path):
    """A factor of one, a bias of nothing: the numbers stay the sigmoid's, and are served so.

    The constant is a weight, or what a node of the kind Constant gives.
    """
    kind, number = IDLE[name]
    around = [node("Cast", to=TensorProto.DOUBLE)] if number.dtype == np.float64 else []
    steps = [node("Sigmoid"), *around, node(kind, number), node("Cast", to=TensorProto.FLOAT)]
    path = ending(planted, tmp_path / "a.onnx", *steps)
    if noted:
        model = onnx.load(path)
        weight = model.graph.initializer.pop()
        made = helper.make_node("Constant", [], [weight.name], value=weight)
        model.graph.node.insert(0, made)
        onnx.save(model, path)
    assert answers(load(path, "classify", **PLAIN)) == pytest.approx(SIGMOID, abs=1e-5)


def test_a_number_that_is_taken_from_one_changes_something(planted, load, tmp_path):
    """1 - x and 1 / x are not x: only on its own side does a number change nothing."""
    path = ending(planted, tmp_path / "a.onnx", node("Sigmoid"), node("Sub", F32(0)))
    model = onnx.load(path)
    last = model.graph.node[-1]
    last.input[:] = list(reversed(last.input))
    onnx.save(model, path)
    assert ends.activation_of(graph.read(path).ends["answer"]) == ""


def percent(planted, path):
    """A classifier whose probabilities are out of a hundred."""
    return ending(planted, path, SOFT, node("Mul", F32(100)))


def test_shares_of_something_else_are_refused(planted, load, tmp_path):
    """Numbers that always sum to 100 are no logits, and no probabilities either."""
    with pytest.raises(MataError, match="answers always sum to 100: state activation"):
        load(percent(planted, tmp_path / "a.onnx"), "classify", **PLAIN)


@pytest.mark.parametrize(
    "steps",
    [
        [node("Sigmoid"), node("Mul", F32(0.9))],
        [node("Sigmoid"), node("Pow", F32(2))],
        [node("Sigmoid"), node("Neg"), node("Add", F32(1)), node("Identity")],
        [node("Sigmoid"), node("MatMul", np.eye(3, dtype=F32)[::-1].copy())],
        [node("Tanh"), node("Add", F32(1)), node("Mul", F32(0.5))],
    ],
)
def test_what_may_be_probabilities_is_refused(steps, planted, load, tmp_path):
    """Numbers of 0 to 1 that are computed of probabilities get no softmax in silence."""
    with pytest.raises(MataError, match="may be probabilities or not: state activation"):
        load(ending(planted, tmp_path / "a.onnx", *steps), "classify", **PLAIN)


def test_logits_behind_a_sigmoid_get_their_softmax(planted, load, tmp_path):
    """A last product of matrices over a hidden sigmoid gives logits, as its numbers show."""
    steps = [node("Sigmoid"), node("MatMul", -8 * np.eye(3, dtype=F32)), node("Add", F32([4]))]
    model = load(ending(planted, tmp_path / "a.onnx", *steps), "classify", **PLAIN)
    powers = np.exp(4 - 8 * SIGMOID)
    assert answers(model) == pytest.approx(powers / powers.sum(), abs=1e-6)


@pytest.mark.parametrize("kind", ["ArgMax", "TopK"])
def test_the_best_classes_are_not_taken_for_all(kind, planted, tmp_path):
    """The best values in their order, or the number of the best, say nothing of each class."""
    given = [np.array([3])] if kind == "TopK" else []
    steps = [SOFT, node(kind, *given, axis=1), node("Cast", to=TensorProto.FLOAT)]
    path = ending(planted, tmp_path / "a.onnx", *steps)
    if kind == "TopK":
        model = onnx.load(path)
        [best] = (each for each in model.graph.node if each.op_type == "TopK")
        best.output.append("places")
        onnx.save(model, path)
    with pytest.raises(MataError, match=r"not recognised \(known for classify: classes\)"):
        layouts.choose(graph.read(path), {}, "classify", ModelOptions())


def test_a_sigmoid_that_is_spelt_out(planted, load, tmp_path):
    """One by one and an exponential is known by the graph."""
    model = onnx.load(planted.colours(tmp_path / "a.onnx", "classes"))
    last = model.graph.node.pop()
    one = numpy_helper.from_array(np.array([1], np.float32), "one")
    model.graph.initializer.append(one)
    model.graph.node.extend(
        [
            helper.make_node("Neg", [last.input[0]], ["negative"]),
            helper.make_node("Exp", ["negative"], ["powers"]),
            helper.make_node("Add", ["one", "powers"], ["more"]),
            helper.make_node("Div", ["one", "more"], [last.output[0]]),
        ]
    )
    onnx.save(model, tmp_path / "a.onnx")
    loaded = load(tmp_path / "a.onnx", "classify", **PLAIN)
    assert answers(loaded) == pytest.approx(SIGMOID, abs=1e-6)


def spelt_out(planted, path):
    """A classifier whose softmax is three operators."""
    model = onnx.load(planted.colours(path, "classes"))
    last = model.graph.node.pop()
    axes = numpy_helper.from_array(np.array([1]), "axes")
    model.graph.initializer.append(axes)
    model.graph.node.extend(
        [
            helper.make_node("Exp", [last.input[0]], ["powers"]),
            helper.make_node("ReduceSum", ["powers", "axes"], ["total"], keepdims=1),
            helper.make_node("Div", ["powers", "total"], ["shares"]),
            helper.make_node("Identity", ["shares"], [last.output[0]]),
        ]
    )
    onnx.save(model, path)
    return path


def test_a_softmax_that_is_spelt_out(planted, load, tmp_path):
    """The exponentials by their sum are known by the graph alone."""
    path = spelt_out(planted, tmp_path / "a.onnx")
    assert graph.read(path).ends == {"answer": ("Identity", "Softmax")}
    assert answers(load(path, "classify", **PLAIN)) == pytest.approx(SOFTMAX, abs=1e-6)


def test_labels_that_may_be_true_together_end_in_a_sigmoid(planted, load, tmp_path):
    """Several labels at once: what a sigmoid gives stays as it is, whatever follows."""
    steps = [node("Sigmoid"), node("Cast", to=TensorProto.FLOAT)]
    model = load(ending(planted, tmp_path / "a.onnx", *steps), "classify", **PLAIN)
    assert answers(model) == pytest.approx(SIGMOID, abs=1e-6)


def test_a_part_of_the_probabilities(planted, load, tmp_path):
    """A class that is cut off behind the softmax leaves the others' probabilities as they were."""
    cut = [SOFT, node("Slice", np.array([0]), np.array([2]), np.array([1]))]
    path = ending(planted, tmp_path / "a.onnx", *cut, sides=("batch", 2))
    [result] = load(path, "classify", **PLAIN).predict([IMAGE], [ClassifyParams()])
    assert [each.confidence for each in result.classifications] == pytest.approx(
        SOFTMAX[:2], abs=1e-6
    )


def test_a_softmax_over_the_batch_is_refused(planted, load, tmp_path):
    """One that makes every class certain of every picture is no classifier."""
    path = ending(planted, tmp_path / "a.onnx", node("Softmax", axis=0))
    with pytest.raises(MataError, match=r"ends in Softmax, but its answers.*state activation"):
        load(path, "classify", **PLAIN)
    assert answers(load(path, "classify", activation="none", **PLAIN)) == [1, 1, 1]


@pytest.mark.parametrize(
    ("activation", "expected"), [("softmax", SOFTMAX), ("sigmoid", SIGMOID), ("none", [1, 0.8, 1])]
)
def test_what_is_stated_counts(activation, expected, planted, load, tmp_path):
    """The settings decide whatever the network ends in; what is no probability is cut to 0..1."""
    path = planted.colours(tmp_path / "a.onnx", "classes")
    model = load(path, "classify", activation=activation, **PLAIN)
    assert answers(model) == pytest.approx(expected, abs=1e-5)


def test_one_class_is_as_likely_as_its_sigmoid(planted, load, tmp_path):
    """A softmax of one number is 1 whatever it is."""
    cut = [node("Slice", np.array([1]), np.array([2]), np.array([1]))]
    path = ending(planted, tmp_path / "a.onnx", *cut, sides=("batch", 1))
    for sides in (("batch", 1), ("batch", "classes")):
        model = onnx.load(path)
        model.graph.output[0].CopyFrom(
            helper.make_tensor_value_info("answer", TensorProto.FLOAT, list(sides))
        )
        onnx.save(model, path)
        [result] = load(path, "classify", **PLAIN).predict([IMAGE], [ClassifyParams()])
        assert result.classifications[0].confidence == pytest.approx(SIGMOID[1], abs=1e-6)


def test_ultralytics_classifier_may_end_in_logits(planted, load, tmp_path):
    """Its metadata says what it is for, and nothing of its end."""
    notes = {"task": "classify", "stride": "1", "names": "{0: 'a', 1: 'b', 2: 'c'}"}
    path = planted.colours(tmp_path / "a.onnx", "classes", **notes)
    [result] = load(path, "classify", **PLAIN).predict([IMAGE], [ClassifyParams()])
    assert sum(each.confidence for each in result.classifications) == pytest.approx(1)


def test_the_second_output_is_not_read(planted, load, tmp_path):
    """Of a softmax and its logits either gives the same; the one with an end is read."""
    path = planted.colours(tmp_path / "a.onnx", "softmax")
    model = onnx.load(path)
    logits = helper.make_tensor_value_info(model.graph.node[-1].input[0], 1, ["batch", 3])
    for first in (True, False):
        del model.graph.output[1:]
        model.graph.output.insert(0 if first else 1, logits)
        onnx.save(model, path)
        assert answers(load(path, "classify", **PLAIN)) == pytest.approx(SOFTMAX, abs=1e-6)
        model.graph.output.remove(logits)


def test_openvinos_format_is_followed_back(planted, load, tmp_path):
    """The layers in front of a result are found by the edges of its file."""
    steps = [SOFT, node("Reshape", np.array([-1, 3])), node("Clip", F32(0), F32(1))]
    path = ending(planted, tmp_path / "a.onnx", *steps)
    openvino = import_openvino()
    saved = tmp_path / "openvino_model.xml"
    openvino.save_model(openvino.Core().read_model(path), saved, compress_to_fp16=False)
    assert ends.activation_of(ir.read(saved).ends["answer"]) == "softmax"
    assert answers(load(saved, "classify", **PLAIN)) == pytest.approx(SOFTMAX, abs=1e-5)


def test_what_was_decided_is_said(planted, tmp_path):
    """The words of ``mataserver show``: what is applied, and the operators that decided it."""
    path = ending(planted, tmp_path / "a.onnx", SOFT, node("Flatten"))
    end = scores.decide(graph.read(path), "answer", {}, ModelOptions())
    assert str(end) == "nothing is applied: the network ends in Softmax, then Flatten"
    plain = graph.read(planted.colours(tmp_path / "b.onnx", "classes"))
    end = scores.decide(plain, "answer", {}, ModelOptions())
    assert str(end).startswith("softmax is applied: the network ends in Mul, unless")
    many = json.loads('{"problem_type": "multi_label_classification"}')
    assert str(scores.decide(plain, "answer", many, ModelOptions())).startswith(
        "sigmoid is applied"
    )
