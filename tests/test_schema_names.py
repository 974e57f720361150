"""The OpenAPI document is one that generators of clients accept, whatever plugins there are."""

from __future__ import annotations

import msgspec
import pytest

from mataserver import Body, Route
from mataserver.http import openapi
from mataserver.http.schema_names import own_names
from mataserver.serving.description import portable


def struct(name, module, **fields):
    """Return a struct as a module of that name would define it."""
    return msgspec.defstruct(name, list(fields.items()), module=module)


STATUS = struct("Status", "mataserver.http.health", ready=bool)
FLEET = struct("Status", "mataserver_fleet.pages", servers=int)
WITHIN = struct("Report", "acme_vision.views", status=FLEET, place=tuple[float, float], rest=list)


def test_structs_of_one_name():
    """The server's own keeps its name, a plugin's begins with the plugin's; references follow."""
    bodies = tuple(Body("application/json", kind) for kind in (WITHIN, STATUS, FLEET))
    route = Route("GET", "/report", print, "Report", "acme", response=bodies[:1], also={
        206: bodies[1:2], 207: bodies[2:],
    })  # fmt: skip
    made = openapi.document([route], "1")
    schemas = made["components"]["schemas"]
    assert {"Status", "FleetStatus", "Report"} <= set(schemas)
    assert not [name for name in schemas if "." in name]
    assert schemas["FleetStatus"]["title"] == "FleetStatus"
    assert schemas["Report"]["properties"]["status"] == {"$ref": "#/components/schemas/FleetStatus"}
    answer = made["paths"]["/report"]["get"]["responses"]["206"]
    assert answer["content"]["application/json"]["schema"]["$ref"].endswith("/Status")


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (["Other"], {}),
        (
            ["mataserver.http.infer.Ask", "mataserver_client.wire.Ask"],
            {"mataserver.http.infer.Ask": "Ask", "mataserver_client.wire.Ask": "WireAsk"},
        ),
        (
            ["FleetAsk", "mataserver_fleet.a_page.Ask", "mataserver_fleet.b.Ask"],
            {"mataserver_fleet.a_page.Ask": "FleetAPageAsk", "mataserver_fleet.b.Ask": "FleetBAsk"},
        ),
        (["acme.Ask", "acme_.Ask"], {"acme.Ask": "AcmeAsk", "acme_.Ask": "acme__Ask"}),
    ],
)
def test_names_are_unique(given, wanted):
    """Where the plugin's name is not enough, the module's is in it too."""
    assert own_names(given) == wanted


def test_arrays_that_generators_know():
    """Those of a fixed length have no ``items`` that is false, and all others have some."""
    pair = portable(msgspec.json.schema(tuple[int, str]))
    assert pair == {
        "type": "array", "minItems": 2, "maxItems": 2,
        "prefixItems": [{"type": "integer"}, {"type": "string"}],
    }  # fmt: skip
    assert portable(msgspec.json.schema(list)) == {"type": "array", "items": {}}
    named = {"properties": {"items": {"type": "integer"}, "type": {"type": "string"}}}
    assert portable(named) == named
