"""Requests of every kind as their bytes, and what differs in answers from time to time."""

from __future__ import annotations

import re

from conftest import picture
from mataserver.testing.serving import KEY

VARYING = re.compile(
    rb"(?is)(?<=date: )[^\r]+|(?<=request-id: )\w{16}|(?<=content-length: )\d+|(?<=dur=)[\d.]+"
    rb'|(?<=timestamp":)[\d.]+|(?<=timestamp\xcb).{8}|(?<=[_a-z]_at":)[\d.]+|(?<=_used":)[\d.]+'
    rb'|(?<="state":")(?:active|idle)|(?<=_mb":)[\d.]+|(?<=_seconds":)[\d.]+|(?<=\r\n)[\da-f]+(?=\r\nevent)'
)
"""Times, what is by chance, and lengths, which the digits of a time may change."""
PICTURE = picture(form="JPEG")
INFER = "/v1/infer?model=fake-detect"
JPEG = ("Content-Type: image/jpeg",)
JSON = ("Content-Type: application/json",)


def request(
    method: str, target: str, *headers: str, body: bytes | None = None, version: str = "1.1"
) -> bytes:
    """Return the bytes of a request with the key."""
    lines = [f"{method} {target} HTTP/{version}", "Host: here", f"X-API-Key: {KEY}", *headers]
    lines += [] if body is None else [f"Content-Length: {len(body)}"]
    return "\r\n".join([*lines, "", ""]).encode() + (body or b"")


LAST = request("GET", "/v1/nothing", "Connection: close")
"""Behind every other request, so that the connection ends: they come in one piece."""
REQUESTS = {
    "raw": request("POST", INFER, *JPEG, body=PICTURE),
    "in MessagePack": request("POST", INFER, *JPEG, "Accept: application/msgpack", body=PICTURE),
    "with an id": request("POST", INFER, *JPEG, "X-Request-Id: mine", body=PICTURE),
    "with an id that is none": request("POST", INFER, *JPEG, "X-Request-Id: <b>", body=PICTURE),
    "as events": request("POST", INFER, *JPEG, "Accept: text/event-stream", body=PICTURE),
    "in chunks": request("POST", INFER, *JPEG, "Transfer-Encoding: chunked")
    + b"%x\r\n%b\r\n0\r\n\r\n" % (len(PICTURE), PICTURE),
    "expecting": request("POST", INFER, *JPEG, "Expect: 100-continue", body=PICTURE),
    "expecting too much": request("POST", INFER, "Expect: 102-whatever", body=b"{}"),
    "the last one": request("POST", INFER, *JPEG, "Connection: close", body=PICTURE),
    "HTTP/1.0": request("POST", INFER, *JPEG, body=PICTURE, version="1.0"),
    "HTTP/1.0 that goes on": request(
        "POST", INFER, *JPEG, "Connection: keep-alive", body=PICTURE, version="1.0"
    ),
    "twice": 2 * request("POST", INFER, *JPEG, body=PICTURE),
    "of a page": request("POST", INFER, *JPEG, "Origin: https://a.example", body=PICTURE),
    "no picture": request("POST", INFER, *JPEG, body=b"nothing"),
    "an empty one": request("POST", INFER, *JPEG, body=b""),
    "no model": request("POST", "/v1/infer?model=absent", *JPEG, body=PICTURE),
    "no parameter": request("POST", f"{INFER}&speed=9", *JPEG, body=PICTURE),
    "no JSON": request("POST", "/v1/infer", *JSON, body=b"{"),
    "of no type": request("POST", INFER, "Content-Type: text/plain", body=PICTURE),
    "of an absolute target": request("POST", f"http://here{INFER}", *JPEG, body=PICTURE),
    "percent-encoded": request("POST", INFER.replace("infer", "inf%65r"), *JPEG, body=PICTURE),
    "with a slash": request("POST", INFER.replace("?", "/?"), *JPEG, body=PICTURE),
    "two slashes": request("POST", f"/{INFER}", *JPEG, body=PICTURE),
    "another method": request("DELETE", INFER),
    "an invented one": request("BREW", INFER),
    "a path with a variable": request("GET", "/v1/models/fake-detect"),
    "models": request("GET", "/v1/models"),
    "health": request("GET", "/v1/health"),
    "its head": request("HEAD", "/v1/health"),
    "upgraded": request("GET", "/v1/health", "Connection: Upgrade", "Upgrade: websocket"),
    "of a plugin": request("GET", "/answers"),
    "as a plugin wants it": request("GET", "/answers?cookie=1"),
    "of a service": request("POST", "/claimed/this", *JSON, body=b"{}"),
    "of a service, expecting": request(
        "POST", "/claimed/this", "Expect: 100-continue", *JSON, body=b"{}"
    ),
    "of a service that fails": request("GET", "/claimed/fault"),
    "upgraded for a service": request(
        "GET", "/claimed/this", "Connection: Upgrade", "Upgrade: websocket"
    ),
    "a wrong key": request("POST", INFER, *JPEG, body=PICTURE).replace(KEY.encode(), b"wrong"),
}
