"""A loaded network: images in, arrays and the images' places out."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import numpy as np

from mataserver import MataError
from mataserver_onnx import bundle as files
from mataserver_onnx import labels, layouts, outputs, pixels
from mataserver_onnx.graph import FLOAT, FLOAT16, INT32
from mataserver_onnx.runtimes import open_session
from mataserver_onnx.session import placing

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from mataserver import LoadContext, ModelSpec
    from mataserver_onnx.bundle import Bundle
    from mataserver_onnx.graph import Port
    from mataserver_onnx.options import LayoutName, ModelOptions
    from mataserver_onnx.preparation import Placement

    Outputs = dict[str, Any]

_PROBE = 224
"""The side of a picture to try a network with that takes any."""
_SIZES: dict[int, Any] = {FLOAT: np.float32, FLOAT16: np.float16, INT32: np.int32}
"""The number formats in which networks are told sizes, beside the usual one."""
_KNOWN = frozenset({"pixel_mask", "orig_target_sizes"})


class Network:
    """A network, how images are prepared for it, and what its outputs mean.

    layout:    how its outputs are read.
    labels:    the names of its classes.
    bundle:    its files.
    options:   its settings.
    outputs:   the names of the outputs that are read, in the layout's order.
    tail:      how many numbers of an answer of YOLO's tell of its mask or keypoints.
    keypoints: how many an instance has, and how many numbers each.
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
        graph, config = self.bundle.graph, self.bundle.config
        self.layout: LayoutName = layouts.choose(graph, config, spec.task, options)
        self.labels = labels.find(graph, config, _label_file(self.bundle, options))
        self.tail = outputs.tail(graph, self.layout, options)
        self.keypoints = outputs.keypoints(graph, options)
        classes = outputs.classes(graph, config, self.layout, options)
        if classes is not None:
            outputs.check_labels(self.labels, classes, self.layout)
        self._input = _image_port(self.bundle)
        self._channels_last = outputs.channels_last(self._input)
        self.preparation, size = pixels.preparation(self.bundle, self.layout, options)
        self.outputs = outputs.wanted(graph, config, self.layout, options)
        where = placing(ctx.settings, options, ctx, self.bundle.network.suffix)
        self._session = open_session(self.bundle, self.outputs, where, size)
        self._float = np.float16 if self._input.kind == FLOAT16 else np.float32

    @property
    def input_size(self) -> tuple[int, int] | None:
        """The least (height, width) that images are resized to; None if they keep their size."""
        return self.preparation.resized_to

    def run(
        self, images: Sequence[NDArray[np.uint8]]
    ) -> Iterator[tuple[int, list[NDArray[np.float32]], Placement]]:
        """Yield for each image its number, its outputs in the layout's order, and its place.

        Images whose inputs have equal shapes share a forward pass. Raises ``MataError`` for values
        that are no numbers.
        """
        prepared = [self.preparation.prepare(image) for image in images]
        alike: dict[tuple[int, ...], list[int]] = {}
        for index, (values, _) in enumerate(prepared):
            alike.setdefault(values.shape, []).append(index)
        for indices in alike.values():
            for part in self._parts(indices):
                outputs = self._forward([prepared[index] for index in part])
                for row, index in enumerate(part):
                    own = [_finite(output[row]) for output in outputs]
                    yield index, own, prepared[index][1]

    def probe(self) -> list[list[NDArray[np.float32]]]:
        """Return what the network says of pictures of noise and of grey; of fewer if it fails.

        Of a network that computes what is no number for one of them, nothing can be learnt by it.
        """
        rows, columns = self.input_size or (_PROBE, _PROBE)
        noise = np.random.default_rng(0).integers(0, 256, (rows, columns, 3), np.uint8)
        found = []
        for picture in (noise, np.full_like(noise, 114), noise // 4):
            with contextlib.suppress(MataError):
                found += [answer for _, answer, _ in self.run([picture])]
        return found

    def close(self) -> None:
        """Free the network."""
        self._session.close()

    def _parts(self, indices: list[int]) -> Iterator[list[int]]:
        """Cut a batch into pieces of the size that the network takes, if it takes only one."""
        side = self._input.dims[0]
        step = side if isinstance(side, int) and side > 0 else len(indices)
        for start in range(0, len(indices), step):
            yield indices[start : start + step]

    def _forward(self, part: list[tuple[NDArray[np.float32], Placement]]) -> list[Any]:
        side = self._input.dims[0]
        missing = side - len(part) if isinstance(side, int) else 0
        padded = part + part[-1:] * missing  # a network of one batch size gets its size
        values = np.stack([each for each, _ in padded]).astype(self._float, copy=False)
        ordered = values.transpose(0, 2, 3, 1) if self._channels_last else values
        feeds: dict[str, Any] = {self._input.name: np.ascontiguousarray(ordered)}
        for port in self.bundle.graph.inputs:
            if port.name == "pixel_mask":
                feeds[port.name] = np.ones(_mask_shape(port, values.shape), np.int64)
            elif port.name == "orig_target_sizes":
                sizes = [place.size[::-1] for _, place in padded]
                feeds[port.name] = np.array(sizes, _SIZES.get(port.kind, np.int64))
        answers = self._session.run(feeds)
        return [answers[name] for name in self.outputs]


def _mask_shape(port: Port, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape of a mask of no padding: the images', or what the network insists on."""
    sides = zip(port.dims[1:], shape[2:], strict=True)
    return (shape[0], *(side if isinstance(side, int) else given for side, given in sides))


def _finite(values: NDArray[Any]) -> NDArray[np.float32]:
    numbers: NDArray[np.float32] = values.astype(np.float32, copy=False)
    if not np.isfinite(numbers).all():
        raise MataError("the network computed values that are no numbers")
    return numbers


def _image_port(bundle: Bundle) -> Port:
    """Return the input for images. Raises ``MataError`` for one, or for others, unlike usual."""
    port = outputs.image_input(bundle.graph)
    others = [each.name for each in bundle.graph.inputs if port is None or each.name != port.name]
    strange = [name for name in others if name not in _KNOWN]
    if strange:
        raise MataError(f"the network takes more than an image: {', '.join(strange[:6])}")
    if port is None or port.kind not in {FLOAT, FLOAT16}:
        raise MataError("the network's input is not of 16- or 32-bit floating point numbers")
    return port


def _label_file(bundle: Bundle, options: ModelOptions) -> Any:
    return bundle.root / options.labels if options.labels else None
