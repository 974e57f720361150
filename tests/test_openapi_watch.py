"""The watch over the answers of all tests finds what a document does not say."""

from __future__ import annotations

import aiohttp
import pytest

from mataserver.testing import serving
from openapi_watch import WATCH, assert_documented
from service_plugins import folder, plugin

__all__ = ["folder", "plugin"]

SOURCE = """
class Told(Struct):
    count: int

class Service(Base):
    def routes(self):
        told = (Body("application/json", Told), Body("application/msgpack", Told))
        return [
            Route("GET", "/lab/{name}", self.get, "A lab", response=told, errors=(404,),
                  public=True, answer_headers={"Lab-Number": "Of the lab."}),
            Route("GET", "/hidden", self.get, public=True, documented=False),
        ]

    async def get(self, request):
        known = {"Lab-Number": "1"}
        match request.match_info.get("name"):
            case "right":
                return web.json_response({"count": 1}, headers=known)
            case "status":
                return web.json_response({"detail": "gone"}, status=410)
            case "type":
                return web.Response(text="1")
            case "header":
                return web.json_response({"count": 1}, headers={"Lab-Name": "A"})
            case "value":
                return web.json_response({"count": "1"})
            case "packed" | "packed value" | "unpacked" as name:
                body = {"packed": b"\\x81\\xa5count\\x01", "unpacked": b"\\xc1"}.get(name)
                body = body or b"\\x81\\xa5count\\xa11"
                return web.Response(body=body, content_type="application/msgpack")
            case "long":
                return web.json_response({"count": 1, "text": "x" * 100_000})
            case "error":
                return web.json_response({"error": "none"}, status=404)
        return web.Response(text="anything", headers={"Any": "thing"})
"""
TYPES = ["application/json", "application/msgpack"]
ASKED = {
    "right": [],
    "long": [],
    "packed": [],
    "packed value": ['GET /lab/{name}: 200: count: "1" is not of type "integer"'],
    "unpacked": ["GET /lab/{name}: 200: no application/msgpack"],
    "status": ['GET /lab/{name}: 410: undocumented status, b\'{"detail": "gone"}\''],
    "type": [f"GET /lab/{{name}}: 200: undocumented type text/plain, of {TYPES}"],
    "header": ["GET /lab/{name}: 200: undocumented header Lab-Name: A"],
    "value": ['GET /lab/{name}: 200: count: "1" is not of type "integer"'],
    "error": ['GET /lab/{name}: 404: : "detail" is a required property'],
}


@pytest.mark.undocumented("most answers are wrong")
async def test_what_a_document_does_not_say(plugin, folder):
    """Status, type, header, JSON and MessagePack; a test can read each as before."""
    async with (
        serving(folder, entry_points=[plugin(SOURCE)]) as server,
        aiohttp.ClientSession(server.url) as http,
    ):
        for name, faults in ASKED.items():
            WATCH.faults = []
            async with http.get(f"/lab/{name}") as answer:
                pieces = [piece async for piece in answer.content.iter_chunked(1_000)]
                assert len(b"".join(pieces)) == answer.content_length
            assert WATCH.faults == faults, name
        WATCH.faults = []
        async with http.get("/hidden"), http.get("/nothing"):
            assert WATCH.faults == []


def test_a_fault_fails_its_test(request):
    """Each is told once; the answers of a test that is marked may be wrong."""
    with pytest.raises(AssertionError, match=r"^one\ntwo$"):
        assert_documented(["one", "two", "one"], request.node)
    assert_documented([], request.node)
    request.applymarker(pytest.mark.undocumented("why"))
    assert_documented(["one"], request.node)
