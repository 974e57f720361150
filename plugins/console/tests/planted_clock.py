"""A detector that reads the time in a picture of a clock, and the camera that shows one.

The clock is the page's own, in milliseconds, as four by four squares: white is 1, black 0, the
highest bit first; it begins anew after 65,536 ms.
"""

from __future__ import annotations

import importlib.metadata
import time
from typing import Any

from mataserver import Backend, Detection, DetectResult, Params, hookimpl

POINT = importlib.metadata.EntryPoint("planted_clock", "planted_clock:plugin", "mataserver")
TASKS = {"clock": "detect"}
SECONDS = 0.15
"""How long it looks, so that what it found is not new any more."""
CAMERA = """(() => {
  const canvas = Object.assign(document.createElement("canvas"), { width: 640, height: 480 });
  const pen = canvas.getContext("2d");
  const draw = () => {
    const now = Math.round(performance.now()) % 65536;
    for (let at = 0; at < 16; at += 1) {
      pen.fillStyle = now >> (15 - at) & 1 ? "#fff" : "#000";
      pen.fillRect((at % 4) * 160, Math.floor(at / 4) * 120, 160, 120);
    }
  };
  draw();
  setInterval(draw, 33);
  navigator.mediaDevices.getUserMedia = async () => canvas.captureStream();
})()"""
"""Gives a page this clock as its camera."""


def read(image: Any) -> int:
    """Return the time that a picture of the clock, of 640 x 480 pixels, shows."""
    squares = image[60::120, 80::160].mean(axis=2).ravel() > 127
    return int("".join(str(int(square)) for square in squares), 2)


class Clock:
    """The model."""

    def predict(self, images: Any, params: Any) -> list[DetectResult]:
        """Answer each image with its time as the label."""
        time.sleep(SECONDS)
        box = (0.0, 0.0, 640.0, 480.0)
        return [DetectResult([Detection(str(read(image)), 0.9, box)]) for image in images]


def load(_spec: Any, _context: Any) -> Clock:
    """Make the model."""
    return Clock()


class Plugin:
    """The plugin."""

    @hookimpl
    def backends(self) -> list[Backend]:
        """Return the backend."""
        return [
            Backend(
                name="clock",
                task="detect",
                source="pip",
                load=load,
                params=Params,
            )
        ]


plugin = Plugin()
