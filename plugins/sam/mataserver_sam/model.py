"""A loaded SAM: serves ``POST /v1/infer`` and the service's calls with one set of weights."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

import msgspec
import torch

from mataserver import NotFound, Segment, SegmentResult, decode_image
from mataserver_sam.boxes import corners, scaled
from mataserver_sam.byte_cache import ByteCache
from mataserver_sam.drawing import Drawing
from mataserver_sam.gpu_memory import gpu_memory
from mataserver_sam.image_answers import ByteBudget, ObjectLists, answer_of, collect, result_of
from mataserver_sam.image_requests import CachedAnswer, WorkerAnswer
from mataserver_sam.params import prompts_of
from mataserver_sam.prompts import Prompt, prefix_errors
from mataserver_sam.timing import Stopwatch
from mataserver_sam.video_requests import TRACKING
from mataserver_sam.videos import Videos

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from mataserver import LoadContext
    from mataserver_sam.masks import MaskFormat
    from mataserver_sam.params import SegmentParams
    from mataserver_sam.preprocess import Size
    from mataserver_sam.prompt_decoder import FoundObject
    from mataserver_sam.prompts import RelativeBox

    Image = NDArray[np.uint8]


LARGEST_RESULT = 2_000_000_000
"""The maximum pixels of all masks of one answer of ``/v1/infer``, where each is an array."""

SECONDS_PER_WEIGHT = 1.2e-6
"""The time limit of a step on a CPU.

SAM3 (840 million weights) took 165 s for a new image and a text on two busy cores, and 9.4 s for
each text more: a request of 64 texts is 0.9e-6 s a weight.
"""


class EncodedImage(Protocol):
    """A vision encoder's output for an image."""

    @property
    def size_bytes(self) -> int:
        """Bytes of its tensors."""


S = TypeVar("S", bound=EncodedImage)


class ImageSegmenter(Protocol[S]):
    """The image part of one kind of SAM."""

    @property
    def capabilities(self) -> Sequence[str]:
        """Its capabilities, as in ``GET /models/info``."""

    def check(self, prompts: Sequence[Prompt]) -> None:
        """Raise ``InvalidParams`` for prompts that this model does not support."""

    def encode_image(self, image: Image) -> S:
        """Run the vision encoder on an RGB image ``[H, W, 3]``."""

    def find_objects(
        self,
        seen: S,
        prompts: Sequence[Prompt],
        size: Size,
        threshold: float,
        *,
        all_masks: bool = False,
    ) -> Iterator[list[FoundObject]]:
        """Yield the objects of each query; every text without boxes is one query.

        With ``all_masks`` a point prompt returns all its proposals, best first, not only one.
        """

    def outline_prompts(self, seen: S, prompts: Sequence[Prompt], size: Size) -> list[FoundObject]:
        """Return one object for each point or box prompt, whatever its score."""


class Segmenter(Generic[S]):
    """The model that ``load`` returns.

    A service calls ``segment``, ``cached``, ``describe``, ``video`` and ``video_stream``.
    ``weights`` have ``device``, ``dtype`` and ``size_bytes``.
    """

    def __init__(self, images: ImageSegmenter[S], weights: Any, ctx: LoadContext) -> None:
        self._images = images
        self._weights = weights
        self._max_pixels = ctx.max_pixels
        self._alpha = ctx.alpha
        self._videos = Videos(weights, ctx.settings, ctx.max_pixels, ctx.decode_timeout)
        self._seen: ByteCache[tuple[S, Size]] = ByteCache(
            ctx.settings.feature_cache_mb * 1e6, lambda kept: kept[0].size_bytes
        )

    @property
    def step_timeout(self) -> float:
        """Seconds that a step may take on a CPU; 0 on a GPU leaves the server's own limit."""
        if self._weights.device.type != "cpu":
            return 0.0
        count: float = self._weights.size_bytes / self._weights.dtype.itemsize
        return SECONDS_PER_WEIGHT * count

    # POST /v1/infer

    def predict(
        self, images: Sequence[Image], params: Sequence[SegmentParams]
    ) -> list[SegmentResult]:
        """Return the segments of each image.

        Raises ``InvalidParams`` for prompts that are missing, outside the image or unsupported.
        """
        return [self._predict(image, each) for image, each in zip(images, params, strict=True)]

    def _predict(self, image: Image, params: SegmentParams) -> SegmentResult:
        size = (image.shape[0], image.shape[1])
        prompts = prompts_of(params, size)
        with prefix_errors("params.prompts"):
            self._images.check(prompts)
        budget = ByteBudget(LARGEST_RESULT)
        segments: list[Segment] = []
        with torch.inference_mode():
            seen = self._images.encode_image(image)
            for group in self._images.find_objects(seen, prompts, size, params.confidence):
                budget.spend(len(group) * size[0] * size[1])
                segments += segments_of(group)
        return SegmentResult(segments)

    def outlines(self, image: Image, boxes: Sequence[RelativeBox]) -> list[FoundObject]:
        """Return the object in each box of an RGB image ``[H, W, 3]``, in their order."""
        if not boxes:
            return []
        size = (image.shape[0], image.shape[1])
        prompts = [Prompt(type="box", box=box) for box in boxes]
        with torch.inference_mode():
            return self._images.outline_prompts(self._images.encode_image(image), prompts, size)

    # /api/v1/image

    def segment(
        self,
        image: bytes,
        prompts: Sequence[Prompt],
        threshold: float,
        form: MaskFormat,
        picture_url: str | None = None,
        image_id: str | None = None,
        *,
        all_masks: bool = False,
    ) -> WorkerAnswer:
        """Return a ``SegmentAnswer``, with a PNG that shows it if ``picture_url`` is given.

        ``image`` is encoded; ``image_id`` is part of the answer. With ``all_masks`` a point prompt
        returns three masks. Raises ``BadRequest`` for an image that cannot be used, and
        ``InvalidParams`` for prompts of a kind that this model does not support.
        """
        watch = Stopwatch()
        found = ObjectLists(form, ByteBudget())
        with prefix_errors("prompts"):
            self._images.check(prompts)
        with torch.inference_mode():
            seen, size, _ = self._encode_cached(image, watch)
            drawing = Drawing(self._decode(image)) if picture_url is not None else None
            groups = self._images.find_objects(seen, prompts, size, threshold, all_masks=all_masks)
            for group in groups:
                watch.lap("infer")
                collect(group, found, drawing)
                watch.lap("encode")
        body = msgspec.json.encode(answer_of(found, size, picture_url, watch.total(), image_id))
        picture = drawing.png() if drawing is not None else b""
        return WorkerAnswer(body, watch.header(), gpu_memory(), picture)

    def cached(
        self,
        image: bytes,
        texts: Sequence[str],
        threshold: float,
        form: MaskFormat,
        image_id: str | None = None,
    ) -> WorkerAnswer:
        """Return a ``CachedAnswer``: one query per text, with one run of the encoder.

        Raises what ``segment`` does.
        """
        watch = Stopwatch()
        prompts = [Prompt(type="text", text=text) for text in texts]
        results, budget = [], ByteBudget()
        with prefix_errors("text_prompts"):
            self._images.check(prompts)
        with torch.inference_mode():
            seen, size, hit = self._encode_cached(image, watch)
            groups = self._images.find_objects(seen, prompts, size, threshold)
            for text, group in zip(texts, groups, strict=True):
                watch.lap("infer")
                results.append(result_of(text, group, ObjectLists(form, budget)))
                watch.lap("encode")
        answer = CachedAnswer(
            results=results,
            cache_hit=hit,
            inference_time_ms=watch.total(),
            image_id=image_id or msgspec.UNSET,
        )
        return WorkerAnswer(msgspec.json.encode(answer), watch.header(), gpu_memory())

    def describe(self) -> dict[str, Any]:
        """Return device, number format, size in bytes, capabilities and GPU memory."""
        return {
            "device": str(self._weights.device),
            "dtype": str(self._weights.dtype).removeprefix("torch."),
            "size_bytes": self._weights.size_bytes,
            "capabilities": [
                *self._images.capabilities,
                *([TRACKING] if self._videos.supports_video else ()),
            ],
            "cached_bytes": self._seen.held_bytes,
            "gpus": gpu_memory(),
        }

    # /api/v1/video

    def video(self, method: str, *args: Any) -> Any:
        """Call a method of the model's ``Videos``."""
        return self._of_videos(method)(*args)

    def video_stream(self, method: str, *args: Any) -> Iterator[Any]:
        """Iterate over a generator method of the model's ``Videos``."""
        yield from self._of_videos(method)(*args)

    def _of_videos(self, method: str) -> Any:
        if method.startswith("_"):
            raise NotFound(f"unknown method for videos: {method!r}")
        return getattr(self._videos, method)

    def close(self) -> None:
        """Free the weights and all caches."""
        self._videos.close_all()
        self._seen.clear()
        del self._videos, self._images, self._weights
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _encode_cached(self, data: bytes, watch: Stopwatch) -> tuple[S, Size, bool]:
        """Return the encoder's output for an encoded image, its size, and whether it was cached."""
        key = hashlib.sha256(data).digest()
        known = self._seen.get(key)
        if known is not None:
            watch.lap("decode")
            return *known, True
        image = self._decode(data)
        watch.lap("decode")
        size = (image.shape[0], image.shape[1])
        seen = self._images.encode_image(image)
        self._seen.put(key, (seen, size))
        return seen, size, False

    def _decode(self, data: bytes) -> Image:
        return decode_image(data, self._max_pixels, self._alpha)


def segments_of(group: Iterable[FoundObject]) -> Iterator[Segment]:
    """Yield non-empty objects for ``/v1/infer``: the box in pixels, the mask as an array."""
    for found in group:
        height, width = found.size
        mask = found.mask()
        if mask.area:
            box = scaled(corners(found.box), width, height)
            yield Segment(found.label, found.score, box, mask.full())
