"""A loaded network: takes images, returns arrays and the images' placements."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import numpy as np

from mataserver import MataError, OutOfMemory
from mataserver_onnx import bundle as files
from mataserver_onnx import labels, layouts, outputs, preparation_choice
from mataserver_onnx.graph import FLOAT, FLOAT16, INT32
from mataserver_onnx.raw_detections import ReadOptions
from mataserver_onnx.runtimes import open_session
from mataserver_onnx.session import session_config

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from mataserver import LoadContext, ModelSpec
    from mataserver_onnx.bundle import Bundle
    from mataserver_onnx.graph import Port
    from mataserver_onnx.options import LayoutName, ModelOptions
    from mataserver_onnx.preparation import Placement

    Outputs = dict[str, Any]

_PROBE_SIDE = 224
"""The side of a test picture for a network that takes any size."""
_SIZE_DTYPES: dict[int, Any] = {FLOAT: np.float32, FLOAT16: np.float16, INT32: np.int32}
"""The number formats of an input for image sizes; int64 for all others."""
_EXTRA_INPUTS = frozenset({"pixel_mask", "orig_target_sizes"})


class Network:
    """A network, the preparation of its images, and the meaning of its outputs.

    layout:    how its outputs are read.
    labels:    the names of its classes.
    bundle:    its files.
    options:   its settings.
    outputs:   the names of the outputs that are read, in the layout's order.
    tail:      how many trailing numbers of a YOLO answer belong to its mask or keypoints.
    keypoints: the number of keypoints of an instance, and of numbers for each.
    log:       the plugin's logger.
    """

    def __init__(self, spec: ModelSpec, ctx: LoadContext) -> None:
        """Open the network of ``spec``.

        Raises ``MataError`` for one that cannot be used and ``Unavailable`` for a missing runtime
        or device.
        """
        if spec.path is None:
            raise MataError(f"{spec.name} has no file to load from")
        self.options: ModelOptions = ctx.settings.model(spec.name)
        self.log = ctx.log
        options = self.options
        self.bundle: Bundle = files.open_bundle(spec.path, options.file)
        if self.bundle.has_foreign_metadata:
            self.log.warning("%s: its metadata.yaml is passed over: not Ultralytics'", spec.name)
        graph, config = self.bundle.graph, self.bundle.config
        self.layout: LayoutName = layouts.choose(graph, config, spec.task, options)
        self.tail = outputs.tail(graph, self.layout, options)
        self.keypoints = outputs.keypoints(graph, options)
        classes = outputs.class_count(graph, config, self.layout, options)
        self.labels = labels.find(graph, config, _label_file(self.bundle, options), classes)
        if classes is not None:
            outputs.check_labels(self.labels, classes, self.layout)
        if not self.labels and labels.are_unreadable(graph):
            self.log.warning(
                "%s: the names of classes in its metadata are not understood; state labels under "
                "plugins.onnx.models",
                spec.name,
            )
        self._objectness_only = outputs.objectness_is_score(graph, self.layout, classes)
        self._input = _image_port(self.bundle)
        self._channels_last = outputs.channels_last(self._input)
        self.preparation, size = preparation_choice.choose(self.bundle, self.layout, options)
        self.preparation.max_pixels = ctx.max_pixels
        self.outputs = outputs.output_names(graph, config, self.layout, options)
        run_config = session_config(ctx.settings, options, ctx, self.bundle.network.suffix)
        self._session = open_session(self.bundle, self.outputs, run_config, size)
        self._float = np.float16 if self._input.kind == FLOAT16 else np.float32
        side = self._input.dims[0]
        stated = side if isinstance(side, int) and side > 0 else None
        self._batch_size = stated or self._session.batch_size

    @property
    def input_size(self) -> tuple[int, int] | None:
        """The smallest (height, width) that images are resized to; None if they are not."""
        return self.preparation.resized_to

    def read_options(
        self, confidence: float, overlap: float, max_pairs: int | None = None
    ) -> ReadOptions:
        """Return what to read from this network's answers, for the parameters of a request."""
        return ReadOptions(confidence, overlap, max_pairs, self.tail, self._objectness_only)

    def run(
        self, images: Sequence[NDArray[np.uint8]]
    ) -> Iterator[tuple[int, list[NDArray[np.float32]], Placement]]:
        """Yield for each image its index, its outputs in the layout's order, and its placement.

        Images whose inputs have equal shapes share a forward pass. Raises ``MataError`` for NaN and
        infinity.
        """
        prepared = [self.preparation.prepare(image) for image in images]
        alike: dict[tuple[int, ...], list[int]] = {}
        for index, (values, _) in enumerate(prepared):
            alike.setdefault(values.shape, []).append(index)
        for indices in alike.values():
            waiting = indices
            while waiting:
                part = waiting[: self._batch_size]
                outputs = self._forward([prepared[index] for index in part])
                if outputs is None:
                    continue  # once more, each alone
                waiting = waiting[len(part) :]
                for row, index in enumerate(part):
                    own = [_finite(output[row]) for output in outputs]
                    yield index, own, prepared[index][1]

    def probe(self) -> list[list[NDArray[np.float32]]]:
        """Return the outputs for test pictures of noise and of grey, skipping those that fail."""
        rows, columns = self.input_size or (_PROBE_SIDE, _PROBE_SIDE)
        noise = np.random.default_rng(0).integers(0, 256, (rows, columns, 3), np.uint8)
        found = []
        for picture in (noise, np.full_like(noise, 114), noise // 4):
            with contextlib.suppress(MataError):
                found += [answer for _, answer, _ in self.run([picture])]
        return found

    def close(self) -> None:
        """Free the network."""
        self._session.close()

    def _forward(self, part: list[tuple[NDArray[np.float32], Placement]]) -> list[Any] | None:
        """Return the outputs, or None if the images must be run one by one from now on.

        A network whose file takes any batch may have been traced with one image: it fails for
        several, or mixes their answers. Raises ``MataError`` where one image has not one answer.
        """
        missing = (self._batch_size or len(part)) - len(part)
        padded = part + part[-1:] * missing  # fill up a fixed batch size
        values = np.stack([each for each, _ in padded]).astype(self._float, copy=False)
        ordered = values.transpose(0, 2, 3, 1) if self._channels_last else values
        feeds: dict[str, Any] = {self._input.name: np.ascontiguousarray(ordered)}
        for port in self.bundle.graph.inputs:
            if port.name == "pixel_mask":
                feeds[port.name] = np.ones(_mask_shape(port, values.shape), np.int64)
            elif port.name == "orig_target_sizes":
                sizes = [place.size[::-1] for _, place in padded]
                feeds[port.name] = np.array(sizes, _SIZE_DTYPES.get(port.kind, np.int64))
        divisible = len(padded) > 1 and not self._batch_size
        try:
            answers = self._session.run(feeds)
        except MataError as error:
            if isinstance(error, OutOfMemory) or not divisible:
                raise
            answers = {}
        outputs: list[Any] = [answers.get(name) for name in self.outputs]
        if all(np.shape(each)[:1] == (len(padded),) for each in outputs):
            return outputs
        if not divisible:
            raise MataError("the network does not give one answer per picture")
        self.log.warning("the network cannot take several pictures: each is run alone from now on")
        self._batch_size = 1
        return None


def _mask_shape(port: Port, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape of a mask without padding: the images', or the network's fixed one."""
    sides = zip(port.dims[1:], shape[2:], strict=True)
    return (shape[0], *(side if isinstance(side, int) else given for side, given in sides))


def _finite(values: NDArray[Any]) -> NDArray[np.float32]:
    numbers: NDArray[np.float32] = values.astype(np.float32, copy=False)
    if not np.isfinite(numbers).all():
        raise MataError("the network computed NaN or infinite values")
    return numbers


def _image_port(bundle: Bundle) -> Port:
    """Return the input for images. Raises ``MataError`` for unsupported inputs."""
    port = outputs.image_input(bundle.graph)
    others = [each.name for each in bundle.graph.inputs if port is None or each.name != port.name]
    strange = [name for name in others if name not in _EXTRA_INPUTS]
    if strange:
        raise MataError(f"the network takes more than an image: {', '.join(strange[:6])}")
    if port is None or port.kind not in {FLOAT, FLOAT16}:
        raise MataError("the network's input is not of 16- or 32-bit floating point numbers")
    return port


def _label_file(bundle: Bundle, options: ModelOptions) -> Any:
    return bundle.root / options.labels if options.labels else None
