"""Example requests in the OpenAPI document, valid with the default models."""

from __future__ import annotations

from msgspec import Meta

MODEL = "opencv-qr"
PICTURE = (  # a PNG of a QR code with the text "mataserver"
    "iVBORw0KGgoAAAANSUhEUgAAAHQAAAB0AQAAAAB84SuKAAAAsklEQVR42uWVsW0EQQwDR8bnVAfbf1nX"
    "AVUBHZwDf3j68JUQGwywoiiowv+aH97rC95V1UVXVa94JfiW5/wLKHFu2fdz+SM/5iz9ewGhc8tzvkKB"
    "gAH5cf5IksT608X/izSMSnjTv6mMKtr6J5XQeM5znkSOI8Wb/kkQsoOtFZ8kyGjtPwr4LPOrBKp0da/3"
    "DzzgHQ+0ENcH+3ep5yz5GOg57lV+AGGCdvO7L0hu/bb78QsUTWRTJJ2+uAAAAABJRU5ErkJggg=="
)

FILLED = Meta(examples=[MODEL], extra_json_schema={"x-filled": True})
"""For form fields that the document's page prefills."""

LOGIN = {"key": "mata_the-key-that-the-server-keeps"}
PULL = {"model": MODEL, "task": "detect"}
NAMED = {"model": MODEL}
INFER = {"model": MODEL, "image": PICTURE, "params": {"confidence": 0.5}}
UPLOAD = {"model": MODEL, "confidence": 0.5}
SESSION = {"model": MODEL, "params": {"confidence": 0.5}}

PARAMETERS = {"model_id": MODEL, "version": "1", "model": MODEL}
"""Examples of path and query parameters, by name."""
