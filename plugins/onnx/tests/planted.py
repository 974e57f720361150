"""Networks made by hand that find a red rectangle, and say so in the layouts of real ones.

Red is R > 0.5 and G < 0.25, which no bar of a letterbox is. The rectangle's edges come from the
first and the last red row and column, so a test knows what must come out to the pixel.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

CLASSES = 3
SCORE = 0.9
LABEL = 1
"""What the rectangle is said to be, and how sure."""


class Builder:
    """Collects the nodes of a graph."""

    def __init__(self, size: Sequence[int | str], batch: int | str = "batch") -> None:
        """Begin a graph whose input is ``images`` [batch, 3, *size]."""
        self.sides = [batch, 3, *size]
        self.nodes: list[Any] = []
        self.weights: list[Any] = []
        self.outputs: list[Any] = []
        self.kind = TensorProto.FLOAT

    def constant(self, values: Any, dtype: Any = np.float32) -> str:
        """Add an initializer; return its name."""
        name = f"weight{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.array(values, dtype), name))
        return name

    def op(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """Add a node with one output; return the output's name."""
        name = f"{kind.lower()}{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], **attributes))
        return name

    def give(self, name: str, value: str, sides: Sequence[int | str]) -> None:
        """Make a value an output."""
        self.nodes.append(helper.make_node("Identity", [value], [name]))
        self.outputs.append(helper.make_tensor_value_info(name, self.kind, list(sides)))

    def save(self, path: Path, *, opset: int = 18, **metadata: str) -> Path:
        """Write the model."""
        given = helper.make_tensor_value_info("images", self.kind, self.sides)
        graph = helper.make_graph(self.nodes, "planted", [given], self.outputs, self.weights)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
        model.ir_version = 9
        helper.set_model_props(model, metadata)
        path.parent.mkdir(parents=True, exist_ok=True)
        onnx.save(model, path)
        return path

    # what the networks see

    def red(self) -> str:
        """Return 1 where the input is red, ``[batch, height, width]``."""
        colours = [
            self.op("Gather", "images", self.constant(colour, np.int64), axis=1)
            for colour in (0, 1)
        ]
        warm = self.op("Greater", colours[0], self.constant(0.5))
        cold = self.op("Less", colours[1], self.constant(0.25))
        return self.op("Cast", self.op("And", warm, cold), to=self.kind)

    def rectangle(self, red: str) -> tuple[str, str]:
        """Return the corners ``[batch, 4]`` around what is red, and whether anything is."""
        columns = self.op("ReduceMax", red, self.constant([1], np.int64), keepdims=0)
        rows = self.op("ReduceMax", red, self.constant([2], np.int64), keepdims=0)
        first = [self._edge(line, last=False) for line in (columns, rows)]
        last = [self._edge(line, last=True) for line in (columns, rows)]
        there = self.op("ReduceMax", columns, self.constant([1], np.int64), keepdims=1)
        return self.op("Concat", *first, *last, axis=1), there

    def _edge(self, line: str, *, last: bool) -> str:
        index = self.op("ArgMax", line, axis=1, keepdims=1, select_last_index=int(last))
        edge = self.op("Cast", index, to=self.kind)
        return self.op("Add", edge, self.constant(1.0)) if last else edge

    def centred(self, corners: str) -> str:
        """Turn corners ``[batch, 4]`` into middles and sizes."""
        turn = [[0.5, 0, -1, 0], [0, 0.5, 0, -1], [0.5, 0, 1, 0], [0, 0.5, 0, 1]]
        return self.op("MatMul", corners, self.constant(turn))

    def rows(self, row: str, others: Any, *, last: bool = False) -> str:
        """Return ``[batch, 1 + n, k]``: a row ``[batch, k]``, then the ``others`` ``[n, k]``.

        With ``last`` the row stands behind them.
        """
        first = self.op("Unsqueeze", row, self.constant([1], np.int64))
        batch = self.op("Slice", self.op("Shape", row), *self._ints([0], [1], [0]))
        shape = self.op("Concat", batch, self.constant(np.shape(others), np.int64), axis=0)
        rest = self.op("Expand", self.constant(others), shape)
        return self.op("Concat", *((rest, first) if last else (first, rest)), axis=1)

    def _ints(self, *values: list[int]) -> list[str]:
        return [self.constant(value, np.int64) for value in values]


def _anchors(size: Sequence[int]) -> int:
    return sum((size[0] // stride) * (size[1] // stride) for stride in (8, 16, 32))


def _noise(count: int, width: int) -> Any:
    """Rows of a faint box each, whose other numbers are small."""
    rows = np.full((count, width), 0.01, np.float32)
    rows[:, :4] = [20, 20, 8, 8]
    return rows


def _answer(build: Builder, parts: Sequence[float]) -> tuple[str, str, str]:
    """Return corners, the middles and sizes, and ``parts`` times whether anything is red."""
    corners, there = build.rectangle(build.red())
    return corners, build.centred(corners), build.op("Mul", there, build.constant([list(parts)]))


def yolo_v8(path: Path, size: Sequence[int] = (64, 96), **options: Any) -> Path:
    """YOLOv8: the rectangle, the same once more a little weaker and smaller, and noise."""
    build = Builder(size, options.pop("batch", "batch"))
    scores = [SCORE if index == LABEL else 0.1 for index in range(CLASSES)]
    _, middle, sure = _answer(build, scores)
    row = build.op("Concat", middle, sure, axis=1)
    again = build.op("Mul", row, build.constant([[1, 1, 0.95, 0.95, 0.8, 0.8, 0.8]]))
    noise = _noise(_anchors(size) - 2, 4 + CLASSES)
    others = build.rows(again, noise)
    first = build.op("Unsqueeze", row, build.constant([1], np.int64))
    rows = build.op("Concat", first, others, axis=1)
    columns = build.op("Transpose", rows, perm=[0, 2, 1])
    build.give("output0", columns, [build.sides[0], 4 + CLASSES, _anchors(size)])
    return build.save(path, **options)


def yolo_v5(path: Path, size: Sequence[int] = (64, 96), **options: Any) -> Path:
    """YOLOv5: a score is the product of "something" and the class."""
    build = Builder(size, options.pop("batch", "batch"))
    scores = [0.95, *(SCORE / 0.95 if index == LABEL else 0.1 for index in range(CLASSES))]
    _, middle, sure = _answer(build, scores)
    row = build.op("Concat", middle, sure, axis=1)
    count = 3 * _anchors(size)
    rows = build.rows(row, _noise(count - 1, 5 + CLASSES))
    build.give("output0", rows, [build.sides[0], count, 5 + CLASSES])
    return build.save(path, **options)


def one_class(path: Path, size: Sequence[int] = (64, 96), **options: Any) -> Path:
    """YOLOv7 of one class, whose number it does not train: it is near 0.5 everywhere."""
    build = Builder(size)
    _, middle, sure = _answer(build, [SCORE, 0.5])
    row = build.op("Concat", middle, sure, axis=1)
    count = 3 * _anchors(size)
    build.give("output", build.rows(row, _noise(count - 1, 6)), ["batch", count, 6])
    return build.save(path, **options)


def yolo_v10(path: Path, size: Sequence[int] = (64, 96), **options: Any) -> Path:
    """YOLOv10: finished rows of corners, score and class."""
    build = Builder(size, options.pop("batch", "batch"))
    corners, _, sure = _answer(build, [SCORE])
    label = build.op("Mul", build.op("Mul", sure, build.constant(0.0)), build.constant(0.0))
    label = build.op("Add", label, build.constant(float(LABEL)))
    row = build.op("Concat", corners, sure, label, axis=1)
    build.give("output0", build.rows(row, _noise(11, 6)), [build.sides[0], 12, 6])
    return build.save(path, **options)


def yolo_seg(path: Path, size: Sequence[int] = (64, 96), **options: Any) -> Path:
    """YOLOv8 with masks: the first prototype is above 0 on what is red and below around it.

    By as much as puts the edges of a rectangle, and its corners, right at four times the size.
    """
    build = Builder(size, options.pop("batch", "batch"))
    scores = [SCORE if index == LABEL else 0.1 for index in range(CLASSES)]
    _, middle, sure = _answer(build, [*scores, 1.0, 0.25])
    row = build.op("Concat", middle, sure, axis=1)
    count, width = _anchors(size), 4 + CLASSES + 2
    columns = build.op("Transpose", build.rows(row, _noise(count - 1, width)), perm=[0, 2, 1])
    build.give("output0", columns, [build.sides[0], width, count])
    red = build.op("Unsqueeze", build.red(), build.constant([1], np.int64))
    pooled = build.op("AveragePool", red, kernel_shape=[4, 4], strides=[4, 4])
    mask = build.op("Sub", pooled, build.constant(0.38))
    nothing = build.op("Mul", pooled, build.constant(0.0))
    both = build.op("Concat", mask, nothing, axis=1)
    build.give("output1", both, [build.sides[0], 2, size[0] // 4, size[1] // 4])
    return build.save(path, **options)


def deployed(path: Path, size: Sequence[int] = (64, 96), **options: Any) -> Path:
    """RT-DETR as its authors deploy it: it is told the picture's size and answers in its pixels."""
    build = Builder(size)
    corners, _, sure = _answer(build, [SCORE])
    sizes = build.op("Cast", "orig_target_sizes", to=build.kind)
    parts = build.op("Div", sizes, build.constant([[size[1], size[0]]]))
    boxes = build.op("Mul", corners, build.op("Concat", parts, parts, axis=1))
    one = build.constant([1], np.int64)
    build.give("boxes", build.op("Unsqueeze", boxes, one), ["batch", 1, 4])
    build.give("scores", sure, ["batch", 1])
    label = build.op("Add", build.op("Mul", sure, build.constant(0.0)), build.constant(LABEL))
    build.give("labels", label, ["batch", 1])
    saved = build.save(path, **options)
    model = onnx.load(saved)
    told = helper.make_tensor_value_info("orig_target_sizes", TensorProto.INT64, ["batch", 2])
    model.graph.input.append(told)
    onnx.save(model, saved)
    return saved


def pairs(path: Path, size: Sequence[int] = (64, 96), **options: Any) -> Path:
    """A DETR of transformers without the files that say which: logits and boxes by query."""
    build = Builder(size)
    corners, _, _ = _answer(build, [1.0])
    parts = build.centred(build.op("Div", corners, build.constant([[size[1], size[0]] * 2])))
    _, _, logits = _answer(build, [-5.0, 5.0, -5.0])
    one = build.constant([1], np.int64)
    build.give("logits", build.op("Unsqueeze", logits, one), ["batch", 1, 3])
    build.give("pred_boxes", build.op("Unsqueeze", parts, one), ["batch", 1, 4])
    return build.save(path, **options)


def colours(path: Path, shape: str, size: Sequence[int | str] = (32, 48), **options: Any) -> Path:
    """A network whose answer is the colour: "classes", "softmax", "map", "depth" or "tokens"."""
    build = Builder(size, options.pop("batch", "batch"))
    sides: dict[str, tuple[str, list[int | str]]] = {
        "classes": ("Identity", ["batch", 3]),
        "softmax": ("Softmax", ["batch", 3]),
        "map": ("AveragePool", ["batch", 3, "h", "w"]),
        "depth": ("ReduceMean", ["batch", *size]),
        "tokens": ("Identity", ["batch", 1, 3]),
    }
    kind, out = sides[shape]
    mean = build.op("ReduceMean", "images", build.constant([2, 3], np.int64), keepdims=0)
    strong = build.op("Mul", mean, build.constant(options.pop("gain", 4.0)))
    if shape == "map":
        value = build.op(kind, "images", kernel_shape=[4, 4], strides=[4, 4])
    elif shape == "depth":
        value = build.op(kind, "images", build.constant([1], np.int64), keepdims=0)
    elif shape == "tokens":
        value = build.op("Unsqueeze", strong, build.constant([1], np.int64))
    else:
        value = build.op(kind, strong)
    name = options.pop("name", "answer")
    if shape == "softmax":
        build.nodes[-1].output[0] = name
        build.outputs.append(helper.make_tensor_value_info(name, build.kind, out))
    else:
        build.give(name, value, out)
    return build.save(path, **options)


def masked(path: Path, sides: Sequence[int | str]) -> Path:
    """A classifier of colours that is also given a mask, whose mean its answer is multiplied by."""
    model = onnx.load(colours(path, "classes"))
    given = helper.make_tensor_value_info("pixel_mask", TensorProto.INT64, ["batch", *sides])
    model.graph.input.append(given)
    answer = model.graph.node[-1]
    steps = [
        helper.make_node("Cast", ["pixel_mask"], ["seen"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["seen"], ["whole"], keepdims=0),
        helper.make_node("Mul", [answer.input[0], "whole"], ["masked"]),
    ]
    answer.input[0] = "masked"
    for step in steps:
        model.graph.node.insert(len(model.graph.node) - 1, step)
    onnx.save(model, path)
    return path


def directory(path: Path, target: str = "onnx") -> Path:
    """A classifier as exports and hub repositories have it, with weights in a file of their own."""
    network = colours(path / "model.onnx", "classes", name="logits")
    labels = {"0": "red", "1": "green", "2": "blue"}
    size = {"height": 32, "width": 48}
    processor = {"image_processor_type": "ViTImageProcessor", "size": size}
    (path / "config.json").write_text(json.dumps({"model_type": "vit", "id2label": labels}))
    (path / "preprocessor_config.json").write_text(json.dumps(processor))
    if target == "openvino":
        from mataserver_onnx.openvino_session import import_openvino

        openvino = import_openvino()
        model = openvino.Core().read_model(network)
        openvino.save_model(model, path / "openvino_model.xml", compress_to_fp16=False)
        network.unlink()
        return path
    model = onnx.load(network)
    moved = b""
    for weight in model.graph.initializer:
        if weight.data_type == TensorProto.FLOAT:
            length = len(weight.raw_data)
            place = {"location": "model.onnx.data", "offset": len(moved), "length": length}
            moved += weight.raw_data
            weight.ClearField("raw_data")
            weight.data_location = TensorProto.EXTERNAL
            for key, value in place.items():
                weight.external_data.add(key=key, value=str(value))
    (path / "model.onnx.data").write_bytes(moved)
    network.write_bytes(model.SerializeToString())
    return path


YOLO: dict[str, Callable[..., Path]] = {
    "yolo-v5": yolo_v5,
    "yolo-v8": yolo_v8,
    "yolo-v10": yolo_v10,
}
