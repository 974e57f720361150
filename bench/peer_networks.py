"""The peer FastAPI with a network of ``shapes``: torch eager behind uvicorn, as one would write it.

Run by ``uvicorn peer_networks:app`` in the environment of the peer. ``BENCH_NET`` is the directory
of a checkpoint, ``BENCH_TASK`` its task, ``BENCH_THREADS`` the threads of a forward pass.
"""

# No deferred annotations here: FastAPI reads them.
import base64
import importlib
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio.to_thread
import numpy as np
import simplejpeg
from fastapi import FastAPI, Request
from fastapi.concurrency import run_in_threadpool

import answers

NET, TASK = os.environ.get("BENCH_NET", ""), os.environ.get("BENCH_TASK", "")
OPENERS = {
    "classify": "AutoModelForImageClassification",
    "detect": "AutoModelForObjectDetection",
    "depth": "AutoModelForDepthEstimation",
    "embed": "CLIPVisionModelWithProjection",
    "segment": "AutoModelForSemanticSegmentation",
}
LOADED: list[Any] = []


@asynccontextmanager
async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
    """Load the network; one forward pass runs at a time."""
    import torch

    transformers: Any = importlib.import_module("transformers")
    torch.set_num_threads(int(os.environ["BENCH_THREADS"]))
    processor = transformers.AutoImageProcessor.from_pretrained(NET)
    model = getattr(transformers, OPENERS[TASK]).from_pretrained(NET, dtype=torch.float32)
    LOADED[:] = [processor, model.eval()]
    anyio.to_thread.current_default_thread_limiter().total_tokens = 1
    yield


app = FastAPI(lifespan=lifespan)


def work(image: bytes) -> dict[str, Any]:
    """Decode and infer."""
    import torch

    processor, model = LOADED
    pixels = simplejpeg.decode_jpeg(image, colorspace="RGB")
    with torch.inference_mode():
        outputs = model(**processor(images=[pixels], return_tensors="pt"))
        answer = READERS[TASK](processor, outputs, pixels.shape[:2])
    return {"task": TASK, "timestamp": time.time(), **answer}


def _text(data: Any) -> str:
    return base64.b64encode(data).decode()


def _depth(processor: Any, outputs: Any, size: tuple[int, int]) -> dict[str, Any]:
    [found] = processor.post_process_depth_estimation(outputs, target_sizes=[size])
    return {"depth_map": _text(found["predicted_depth"].numpy()), "depth_shape": size}


def _segments(processor: Any, outputs: Any, size: tuple[int, int]) -> dict[str, Any]:
    [found] = processor.post_process_semantic_segmentation(outputs, target_sizes=[size])
    classes = found.numpy()
    masks = {f"class {each}": answers.png(classes == each) for each in np.unique(classes)}
    return {"segments": [{"label": name, "mask": _text(png)} for name, png in masks.items()]}


def _embedding(_processor: Any, outputs: Any, _size: tuple[int, int]) -> dict[str, Any]:
    vector = outputs.image_embeds[0]
    return {"embedding": (vector / vector.norm()).tolist()}


def _classes(_processor: Any, outputs: Any, _size: tuple[int, int]) -> dict[str, Any]:
    scores, found = (each.tolist() for each in outputs.logits[0].softmax(-1).topk(5))
    pairs = zip(found, scores, strict=True)
    return {"classifications": [{"label": f"class {at}", "confidence": s} for at, s in pairs]}


def _detections(processor: Any, outputs: Any, size: tuple[int, int]) -> dict[str, Any]:
    [found] = processor.post_process_object_detection(outputs, target_sizes=[size])
    rows = zip(*(found[each].tolist() for each in ("labels", "scores", "boxes")), strict=True)
    return {
        "detections": [{"label": f"class {at}", "confidence": s, "bbox": b} for at, s, b in rows]
    }


READERS = {
    "classify": _classes,
    "detect": _detections,
    "depth": _depth,
    "segment": _segments,
    "embed": _embedding,
}


@app.get("/health")
async def health() -> dict[str, str]:
    """Tell that it runs."""
    return {"status": "ok"}


@app.post("/infer")
async def infer(request: Request) -> dict[str, Any]:
    """Take the image as the body."""
    return await run_in_threadpool(work, await request.body())
