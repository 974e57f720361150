"""What is asked: bodies of every form, and how each server takes them."""

from __future__ import annotations

import base64
import io
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

import answers

if TYPE_CHECKING:
    from pathlib import Path

BOUNDARY = "a-boundary-that-is-in-no-picture"
JPEG = {"Content-Type": "image/jpeg"}
PACKED = {**JPEG, "Accept": "application/msgpack"}
OBJECTS = {**answers.COUNTS, "masks": answers.MASKS, "vit": 10, "rtdetr": 10}


def jpeg(width: int, height: int, quality: int) -> bytes:
    """Return a JPEG of smooth shapes under noise, as a camera's."""
    noise = np.random.default_rng(1).normal(0, 9, (height, width, 3))
    across = np.linspace(0, 200, width)[None, :, None]
    down = np.linspace(0, 50, height)[:, None, None]
    pixels = np.clip(across + down + noise, 0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def small() -> bytes:
    """Return a JPEG of 640x480 and about 60 KB."""
    return jpeg(640, 480, 84)


def large() -> bytes:
    """Return a JPEG of 4000x3000."""
    return jpeg(4000, 3000, 80)


@dataclass(frozen=True)
class Question:
    """A model, and the form of the body: raw, json, form, packed, frames or health.

    ``packed`` is raw with an answer in MessagePack.
    """

    model: str
    form: str
    large: bool = False

    @property
    def name(self) -> str:
        """The name of the body's file."""
        form = self.form if self.form in {"json", "form"} else "raw"
        return f"{form}-{self.model if form != 'raw' else ''}-{'large' if self.large else 'small'}"

    @property
    def needle(self) -> tuple[str, int]:
        """What a good answer holds, and how often."""
        if self.form == "health":
            return "ok", 1
        if self.model == "depth":
            return "depth_map", 1
        return ("label" if self.form == "packed" else '"label"'), OBJECTS[self.model]

    def body(self, image: bytes) -> bytes:
        """Return the body for an image."""
        if self.form == "json":
            text = base64.b64encode(image).decode()
            return json.dumps({"model": self.model, "image": text}).encode()
        return _form(self.model, image) if self.form == "form" else image

    @property
    def headers(self) -> dict[str, str]:
        """The headers of a request."""
        return {
            "health": {},
            "json": {"Content-Type": "application/json"},
            "form": {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"},
            "packed": PACKED,
        }.get(self.form, JPEG)


def _form(model: str, image: bytes) -> bytes:
    head = (
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="model"\r\n\r\n{model}\r\n'
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="a.jpg"\r\n'
        "Content-Type: image/jpeg\r\n\r\n"
    )
    return head.encode() + image + f"\r\n--{BOUNDARY}--\r\n".encode()


@dataclass
class Bodies:
    """Files that hold the bodies, made when they are asked for."""

    folder: Path
    images: dict[bool, bytes] = field(default_factory=dict)

    def path(self, question: Question) -> Path | None:
        """Return the file of a question's body; None when it has none."""
        if question.form == "health":
            return None
        path = self.folder / question.name
        if not path.exists():
            if question.large not in self.images:
                self.images[question.large] = large() if question.large else small()
            path.write_bytes(question.body(self.images[question.large]))
        return path
