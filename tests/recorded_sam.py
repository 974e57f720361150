"""The requests to SAM's API whose answers are recorded, and a model that stands behind it."""

from __future__ import annotations

import importlib.metadata
import json
from typing import Any

from mataserver import Backend, BadRequest, SegmentResult, hookimpl
from mataserver import plugins as plugin_host
from mataserver_sam.image_requests import WorkerAnswer
from recorded_requests import B64, JSON, Exchange

NAME = "fixed-sam"
SEGMENT, CACHED = "/api/v1/image/segment", "/api/v1/image/cached-features"
VIDEO = "/api/v1/video/session"
SOCKET = "/api/v1/video/ws/propagate/absent"
TEXT = {"type": "text", "text": "dog"}
POINT = {"type": "point", "points": [[0.3, 0.4]], "point_labels": [1]}


class Fixed:
    """Answers with what it was asked, as the worker of a SAM does: with a whole body."""

    def predict(self, images: Any, _params: Any) -> list[SegmentResult]:
        return [SegmentResult([]) for _ in images]

    def segment(
        self, image: bytes, prompts: Any, least: float, form: str, *, picture_url: Any, **_more: Any
    ) -> WorkerAnswer:
        if not prompts:
            raise BadRequest("prompts: at least one")
        told = {"bytes": len(image), "prompts": len(prompts), "least": least, "form": form}
        picture = b"picture" if picture_url is not None else b""
        return WorkerAnswer(json.dumps(told).encode(), "infer;dur=1", [], picture)

    def cached(
        self, image: bytes, texts: list[str], least: float, form: str, **_more: Any
    ) -> WorkerAnswer:
        told = {"bytes": len(image), "texts": texts, "least": least, "form": form}
        return WorkerAnswer(json.dumps(told).encode(), "infer;dur=1", [])

    def describe(self) -> dict[str, Any]:
        return {"device": "cpu", "capabilities": ["text_prompts"], "gpus": []}


def load(_spec: Any, _ctx: Any) -> Fixed:
    return Fixed()


@hookimpl
def backends() -> list[Backend]:
    return [Backend(name=NAME, task="segment", source="pip", load=load)]


POINT_OF_ENTRY = importlib.metadata.EntryPoint("fixed", __name__, plugin_host.GROUP)


def _post(name: str, path: str, body: Any, key: str | None = "test-key") -> Exchange:
    sent = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Exchange(f"SAM {name}", "POST", path, sent, JSON, key)


def _images() -> list[Exchange]:
    asked = {"image": B64, "prompts": [TEXT, POINT]}
    bodies = {
        "texts and points": asked, "a threshold": {**asked, "confidence_threshold": 0.25},
        "polygons": {**asked, "mask_format": "polygon"}, "no JSON": b"{",
        "another form": {**asked, "mask_format": "bmp"}, "no image": {"prompts": [TEXT]},
        "no prompts": {"image": B64}, "no such prompt": {**asked, "prompts": [{"type": "smell"}]},
        "an empty list": {**asked, "prompts": []}, "no base64": {**asked, "image": "%%%"},
        "a threshold out of range": {**asked, "confidence_threshold": 2},
        "a data URI": {**asked, "image": f"data:image/png;base64,{B64}"},
    }  # fmt: skip
    texts = {"image": B64, "text_prompts": ["person", "car"]}
    several = {
        "two texts": texts, "no texts": {"image": B64},
        "an empty text": {**texts, "text_prompts": [""]},
        "no list": {**texts, "text_prompts": "person"},
    }  # fmt: skip
    return [
        *(_post(name, SEGMENT, body) for name, body in bodies.items()),
        *(_post(f"cached: {name}", CACHED, body) for name, body in several.items()),
        _post("without a key", SEGMENT, asked, None),
        _post("wrong key", CACHED, texts, "wrong-key"),
        Exchange("SAM of another type", "POST", SEGMENT, b"text", {"Content-Type": "text/plain"}),
        Exchange("SAM GET", "GET", SEGMENT),
        Exchange("SAM no picture", "GET", "/api/v1/visualizations/absent.png"),
        Exchange("SAM nothing", "GET", "/api/v1/image/nothing"),
        Exchange("SAM models", "GET", "/models/info"),
        Exchange("SAM models without a key", "GET", "/models/info", key=None),
    ]


def _videos() -> list[Exchange]:
    starts = {
        "no video": {}, "two videos": {"video_url": "http://a/b", "video_path": "/a"},
        "a path": {"video_path": "/etc/passwd"}, "no base64": {"video_base64": "%%%"},
        "an address": {"video_url": "http://127.0.0.1:1/a.mp4"}, "no address": {"video_url": "x"},
        "a wrong name": {"video_path": "/a", "session_id": "a b"}, "no JSON": b"{",
    }  # fmt: skip
    one = f"{VIDEO}/absent"
    prompt = {"frame_index": 0, "prompts": [TEXT]}
    return [
        *(_post(f"video: {name}", f"{VIDEO}/start", body) for name, body in starts.items()),
        _post("prompt of no session", f"{one}/prompt", prompt),
        _post("propagate no session", f"{one}/propagate", {}),
        _post("reset no session", f"{one}/reset", {}),
        Exchange("SAM status of no session", "GET", f"{one}/status"),
        Exchange("SAM close no session", "DELETE", one),
        Exchange("SAM no object", "DELETE", f"{one}/object/1"),
        Exchange("SAM object no number", "DELETE", f"{one}/object/x"),
        Exchange("SAM sessions", "GET", "/api/v1/video/sessions"),
        Exchange("SAM sessions without a key", "GET", "/api/v1/video/sessions", key=None),
        Exchange("SAM socket, no WebSocket", "GET", SOCKET),
    ]


EXCHANGES = (*_images(), *_videos())
