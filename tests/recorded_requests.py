"""The requests over REST whose answers are recorded: every prefix, uploads, events, errors."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass, field
from typing import Any

from conftest import FAKES, picture

PNG = picture()
B64 = base64.b64encode(PNG).decode()
JSON = {"Content-Type": "application/json"}
IMAGE = {"Content-Type": "image/png"}
EVENTS = {"Accept": "text/event-stream"}
PACKED = {"Accept": "application/msgpack"}
BOUNDARY = "a-boundary"


@dataclass(frozen=True)
class Exchange:
    """One request. ``key`` is what it shows as its key, None for nothing."""

    name: str
    method: str
    path: str
    body: bytes | None = None
    headers: dict[str, str] = field(default_factory=dict)
    key: str | None = "test-key"


def asked(name: object, **more: Any) -> bytes:
    """Return the JSON body of an inference."""
    return json.dumps({"model": name, "image": B64, **more}).encode()


def form(*parts: tuple[str, bytes]) -> bytes:
    """Return a multipart body; the part called ``file`` has a file name."""
    lines = []
    for name, content in parts:
        named = f'name="{name}"' + ('; filename="a.png"' if name == "file" else "")
        lines.append(f"--{BOUNDARY}\r\nContent-Disposition: form-data; {named}\r\n\r\n".encode())
        lines.append(content + b"\r\n")
    return b"".join([*lines, f"--{BOUNDARY}--\r\n".encode()])


UPLOAD = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}


def chat(model: str, text: str = "one two three", **more: Any) -> bytes:
    """Return the body of a chat completion about the picture."""
    content = [
        {"type": "text", "text": text},
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{B64}"}},
    ]
    messages = [{"role": "user", "content": content}]
    return json.dumps({"model": model, "messages": messages, **more}).encode()


def tensors(datatype: str = "BYTES", shape: tuple[int, ...] = (1,), **more: Any) -> bytes:
    """Return the body of an inference of the Open Inference Protocol."""
    image = {"name": "image", "datatype": datatype, "shape": shape, "data": [B64]}
    return json.dumps({"inputs": [image], **more}).encode()


def _reading() -> list[Exchange]:
    paths = (
        "/v1/health", "/health", "/ready", "/v1/models", "/v1/models/fake-detect",
        "/v1/models/absent", "/v1/models?format=openai", "/openai/v1/models",
        "/openai/v1/models/fake-vlm", "/openai/v1/models/absent", "/v1/sessions",
        "/v1/sessions/sess_0", "/v1/sessions/sess_0/snapshot", "/v1/stream/sess_0", "/v1/plugins",
        "/v2", "/v2/health/live", "/v2/health/ready", "/v2/models/fake-detect",
        "/v2/models/fake-vlm", "/v2/models/absent", "/v2/models/fake-detect/ready",
        "/v2/models/absent/ready", "/v2/models/fake-detect/versions/1",
        "/v2/models/fake-detect/versions/2", "/v2/models/fake-detect/versions/1/ready",
        "/docs", "/redoc",
    )  # fmt: skip
    read = [Exchange(f"GET {path}", "GET", path) for path in paths]
    return read + [Exchange(f"GET {path} without a key", "GET", path, key=None) for path in paths]


def _wrong_keys() -> list[Exchange]:
    routes = (
        ("GET", "/v1/models"), ("POST", "/v1/infer"), ("POST", "/v1/infer/upload"),
        ("GET", "/v2/models/fake-detect"), ("POST", "/v1/chat/completions"),
        ("POST", "/v1/sessions"), ("GET", "/openai/v1/models"), ("GET", "/v1/nothing"),
    )  # fmt: skip
    shown = {"wrong": "Bearer wrong-key", "no scheme": "wrong-key", "empty": "Bearer "}
    return [
        Exchange(f"{method} {path}, {how} key", method, path, b"", {"Authorization": given}, None)
        for method, path in routes
        for how, given in shown.items()
    ]


def _wrong_routes() -> list[Exchange]:
    unknown = (
        "/v1/nothing", "/v2/nothing", "/openai/v1/nothing", "/nothing", "/v1/chat/nothing",
        "/v1/models/", "/v1/infer/", "/v1/infer/upload/x", "/api/v1/nothing",
    )  # fmt: skip
    methods = (
        ("DELETE", "/v1/infer"), ("PUT", "/v1/infer/upload"), ("POST", "/v1/health"),
        ("DELETE", "/v1/plugins"), ("PATCH", "/v1/sessions"), ("GET", "/v1/models/pull"),
        ("PUT", "/v1/sessions/sess_0"), ("POST", "/v2"), ("DELETE", "/v2/models/fake-detect"),
        ("GET", "/v2/models/fake-detect/infer"), ("GET", "/v1/chat/completions"),
        ("DELETE", "/openai/v1/models"), ("OPTIONS", "/v1/infer"), ("HEAD", "/v1/models"),
        ("HEAD", "/v1/health"), ("BREW", "/v1/infer"), ("POST", "/docs"), ("POST", "/metrics"),
    )  # fmt: skip
    return [
        *(Exchange(f"{m} {path}", m, path) for path in unknown for m in ("GET", "POST")),
        *(Exchange(f"{method} {path}", method, path) for method, path in methods),
    ]


_INFER = "/v1/infer"


def _inferring() -> list[Exchange]:
    return [*_tasks(), *_json_bodies(), *_raw_bodies(), *_uploads()]


def _tasks() -> list[Exchange]:
    url, found = _INFER, []
    for task in FAKES:
        name = f"fake-{task}"
        found += [
            Exchange(f"JSON {name}", "POST", url, asked(name), JSON),
            Exchange(f"raw {name}", "POST", f"{url}?model={name}", PNG, IMAGE),
            Exchange(f"upload {name}", "POST", f"{url}/upload",
                     form(("model", name.encode()), ("file", PNG)), UPLOAD),
            Exchange(f"packed {name}", "POST", url, asked(name), JSON | PACKED),
            Exchange(f"events {name}", "POST", url, asked(name), JSON | EVENTS),
        ]  # fmt: skip
    return found


def _json_bodies() -> list[Exchange]:
    bodies = {
        "no JSON": b"{", "a list": b"[]", "empty": b"", "no model": b'{"image":"AAAA"}',
        "no image": b'{"model":"fake-detect"}', "null image": asked("fake-detect", image=None),
        "image of another type": asked("fake-detect", image=5),
        "image no base64": asked("fake-detect", image="%%%"),
        "image a URL": asked("fake-detect", image="http://localhost/a.png"),
        "image no picture": asked("fake-detect", image=base64.b64encode(b"text").decode()),
        "unknown model": asked("absent"), "not installed": asked("fake-absent"),
        "model of another type": asked(3),
        "unknown parameter": asked("fake-detect", params={"colour": 1}),
        "old name": asked("fake-detect", params={"threshold": 0.5}),
        "parameter out of range": asked("fake-detect", params={"confidence": 2}),
        "parameter of another type": asked("fake-detect", params={"confidence": "high"}),
        "params a list": asked("fake-detect", params=[]),
        "NaN": b'{"model":"fake-detect","params":{"confidence":NaN}}',
        "unknown field": asked("fake-detect", colour=1),
        "confidence": asked("fake-detect", params={"confidence": 0.2}),
        "model raises": asked("fake-detect", params={"behave": "raise"}),
        "model gives garbage": asked("fake-detect", params={"behave": "garbage"}),
        "model gives NaN": asked("fake-detect", params={"behave": "nan"}),
        "model gives too few": asked("fake-detect", params={"behave": "short"}),
        "model has no memory": asked("fake-detect", params={"behave": "memory"}),
    }  # fmt: skip
    plain = [Exchange(f"JSON: {name}", "POST", _INFER, body, JSON) for name, body in bodies.items()]
    return plain + [
        Exchange(f"events: {name}", "POST", _INFER, bodies[name], JSON | EVENTS)
        for name in ("no JSON", "unknown model", "model raises", "image no picture")
    ]


def _raw_bodies() -> list[Exchange]:
    url = _INFER
    queries = (
        "", "model=", "model=absent", "model=fake-detect&model=x", "model=fake-detect&colour=1",
        "model=fake-detect&confidence=2", "model=fake-detect&confidence=0.2",
        "model=fake-detect&confidence=x", f"model=fake-detect&prompt={'x' * 2000}",
    )  # fmt: skip
    found = [Exchange(f"raw ?{q[:60]}", "POST", f"{url}?{q}", PNG, IMAGE) for q in queries]
    return [
        *found,
        Exchange("raw, empty", "POST", f"{url}?model=fake-detect", b"", IMAGE),
        Exchange("raw, no picture", "POST", f"{url}?model=fake-detect", b"text", IMAGE),
        Exchange("text/plain", "POST", url, b"text", {"Content-Type": "text/plain"}),
        Exchange("expectation", "POST", url, asked("fake-detect"), JSON | {"Expect": "tea"}),
    ]


def _uploads() -> list[Exchange]:
    uploads = {
        "no file": form(("model", b"fake-detect")),
        "no model": form(("file", PNG)),
        "empty file": form(("model", b"fake-detect"), ("file", b"")),
        "two files": form(("model", b"fake-detect"), ("file", PNG), ("file", PNG)),
        "unknown field": form(("model", b"fake-detect"), ("file", PNG), ("colour", b"1")),
        "complex field": form(("model", b"fake-detect"), ("file", PNG), ("boxes", b"[]")),
        "no text": form(("model", b"fake-detect"), ("file", PNG), ("prompt", b"\xff")),
        "no multipart": b"text",
    }
    return [
        Exchange(f"upload: {name}", "POST", f"{_INFER}/upload", body, UPLOAD)
        for name, body in uploads.items()
    ]


def _models_and_sessions() -> list[Exchange]:
    found = []
    for verb in ("pull", "warmup", "unload"):
        bodies = {
            "absent": b'{"model":"absent"}', "no JSON": b"{", "no model": b"{}",
            "of another type": b'{"model":1}', "a path": b'{"model":"/etc","task":"detect"}',
            "unknown task": b'{"model":"fake-detect","task":"smell"}',
            "fake-detect": b'{"model":"fake-detect","task":"detect"}',
        }  # fmt: skip
        found += [
            Exchange(f"{verb}: {name}", "POST", f"/v1/models/{verb}", body, JSON)
            for name, body in bodies.items()
        ]
    sessions = {
        "no JSON": b"{", "no model": b"{}", "absent": b'{"model":"absent"}',
        "wrong task": b'{"model":"fake-detect","task":"ocr"}',
        "parameter": b'{"model":"fake-detect","params":{"colour":1}}',
        "source": b'{"model":"fake-detect","source":"http://localhost/x"}',
        "made": b'{"model":"fake-detect"}', "tracked": b'{"model":"fake-track"}',
    }  # fmt: skip
    found += [
        Exchange(f"session: {name}", "POST", "/v1/sessions", body, JSON)
        for name, body in sessions.items()
    ]
    found.append(Exchange("the sessions", "GET", "/v1/sessions"))
    return [*found, Exchange("delete no session", "DELETE", "/v1/sessions/sess_0")]


def _protocols() -> list[Exchange]:
    url, found = "/v1/chat/completions", []
    chats = {
        "echo": chat("echo"), "two tokens": chat("echo", max_tokens=2),
        "stop": chat("echo", stop=["two"]), "mute": chat("mute"),
        "streamed": chat("echo", stream=True),
        "streamed with usage": chat("echo", stream=True, stream_options={"include_usage": True}),
        "streamed mute": chat("mute", stream=True), "not a chat model": chat("fake-detect"),
        "absent": chat("absent"), "absent, streamed": chat("absent", stream=True),
        "no messages": b'{"model":"echo"}', "no JSON": b"{",
        "no image": b'{"model":"echo","messages":[{"role":"user","content":"a"}]}',
        "two answers": chat("echo", n=2), "tokens out of range": chat("echo", max_tokens=0),
        "temperature": chat("echo", temperature=9), "fails": chat("fake-vlm", temperature=1),
    }  # fmt: skip
    for prefix in (url, "/openai/v1/chat/completions"):
        found += [Exchange(f"{prefix}: {n}", "POST", prefix, b, JSON) for n, b in chats.items()]
    bodies = {
        "infer": tensors(), "id": tensors(id="7"), "no JSON": b"{", "no inputs": b"{}",
        "parameters": tensors(parameters={"confidence": 0.2}),
        "wrong parameter": tensors(parameters={"colour": 1}),
        "outputs": tensors(outputs=[{"name": "boxes"}]),
        "unknown output": tensors(outputs=[{"name": "absent"}]),
        "wrong shape": tensors(shape=(2,)),
        "wrong datatype": tensors(datatype="FP7"),
    }  # fmt: skip
    for model in ("fake-detect", "fake-classify", "fake-ocr", "fake-vlm"):
        path = f"/v2/models/{model}/infer"
        found.append(Exchange(f"v2 {model}", "POST", path, tensors(), JSON))
    path = "/v2/models/fake-detect/infer"
    found += [Exchange(f"v2: {n}", "POST", path, b, JSON) for n, b in bodies.items()]
    for verb in ("load", "unload"):
        for model in ("fake-detect", "absent"):
            path = f"/v2/repository/models/{model}/{verb}"
            found.append(Exchange(f"v2 {verb} {model}", "POST", path, b"{}", JSON))
    index = "/v2/repository/index"
    return [
        *found,
        Exchange("v2 index", "POST", index, b"{}", JSON),
        Exchange("v2 index, wrong", "POST", index, b"[", JSON),
        Exchange("v2 absent", "POST", "/v2/models/absent/infer", tensors(), JSON),
    ]


EXCHANGES = (
    *_reading(), *_wrong_keys(), *_wrong_routes(), *_inferring(), *_models_and_sessions(),
    *_protocols(),
)  # fmt: skip
