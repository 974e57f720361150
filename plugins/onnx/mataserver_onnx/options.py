"""The settings of the plugin: ``plugins.onnx`` in the configuration."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

LayoutName = Literal[
    "detr",
    "rt-detr",
    "rt-detr-deploy",
    "rt-detr-ultralytics",
    "rf-detr",
    "rf-detr-seg",
    "yolo-v5",
    "yolo-v5-seg",
    "yolo-v6",
    "yolo-v8",
    "yolo-v8-rows",
    "yolo-seg",
    "yolo-pose",
    "yolo-obb",
    "yolo-v10",
    "yolo-v26-seg",
    "yolo-v26-pose",
    "yolo-v26-obb",
    "yolox",
    "yolox-decoded",
    "classes",
    "semantic",
    "depth",
    "vector",
]
Runtime = Literal["by-file", "onnxruntime", "openvino"]
Precision = Literal["auto", "float32", "float16", "bfloat16"]
Activation = Literal["auto", "softmax", "sigmoid", "none"]
Resize = Literal["auto", "stretch", "letterbox", "corner", "crop"]
Side = Annotated[int, Meta(ge=1, le=8192)]
Threads = Annotated[int, Meta(ge=0, le=1024)]
Name = Annotated[str, Meta(min_length=1, max_length=256)]
Text = Annotated[str, Meta(max_length=4096)]
Triple = tuple[float, float, float]
Deviation = Annotated[float, Meta(gt=0)]


class ModelOptions(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``plugins.onnx.models.<name>``: what the files of one model do not say.

    layout:     what the outputs mean; recognised where it is not given.
    keypoints:  how many keypoints an instance has, and how many numbers each: 2, or 3 with a
                confidence.
    output:     the name of the output that holds the answer, where several may.
    activation: what makes probabilities of a classifier's numbers; "none" if they are some.
    file:       which file of a directory, as a path inside it.
    labels:     a file of class names, one a line or JSON; relative to the model's directory.
    input_size: height and width of the input of a graph that takes any.
    resize:     how an image becomes that size: "stretch" changes its aspect ratio, "letterbox"
                adds bars around it, "corner" to the right and below, "crop" cuts off what is
                too long.
    rescale:    pixels of 0 to 255 are multiplied by it,
    mean, std:  then the mean is taken off and the rest divided by the deviation, in the order of
                ``channels``.
    channels:   the order in which the network takes colours, blue first for YOLOX alone; with a
                processor, the processor's.
    runtime, precision, providers, threads: instead of the plugin's.
    """

    layout: LayoutName | None = None
    keypoints: tuple[Side, Annotated[int, Meta(ge=2, le=3)]] | None = None
    output: Text = ""
    activation: Activation = "auto"
    file: Text = ""
    labels: Text = ""
    input_size: tuple[Side, Side] | None = None
    resize: Resize = "auto"
    rescale: float | None = None
    mean: Triple | None = None
    std: tuple[Deviation, Deviation, Deviation] | None = None
    channels: Literal["auto", "rgb", "bgr"] = "auto"
    runtime: Runtime | None = None
    precision: Precision | None = None
    providers: list[Name] | None = None
    threads: Threads | None = None

    @property
    def states_preparation(self) -> bool:
        """Whether it states the preparation of images, replacing ``preprocessor_config.json``."""
        return self.resize != "auto" or any(
            each is not None for each in (self.input_size, self.rescale, self.mean, self.std)
        )


class Settings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``plugins.onnx``.

    runtime:   "by-file" is OpenVINO for its own files and ONNX Runtime for ``.onnx`` files.
    precision: what OpenVINO computes in; "auto" is the model's ``dtype``, else float32. ONNX
               Runtime computes in the format that the file holds.
    providers: ONNX Runtime's execution providers, the first preferred; the device's own if empty.
    threads:   of a forward pass; 0 is the model's ``threads``.
    models:    settings of single models, by their registered names.
    """

    runtime: Runtime = "by-file"
    precision: Precision = "auto"
    providers: list[Name] = []
    threads: Threads = 0
    models: dict[str, ModelOptions] = {}

    def model(self, name: str) -> ModelOptions:
        """Return the settings of one model."""
        return self.models.get(name, ModelOptions())
