"""The settings of ``plugins.fleet``."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct, field

from mataserver_fleet.gateway.options import GatewaySettings

BACKENDS = ("onnxruntime", "openvino", "tensorrt", "pytorch")
Seconds = Annotated[float, Meta(gt=0.0, le=3600.0)]
Backend = Annotated[
    str,
    Meta(pattern=r"^[a-z0-9_]{1,64}\Z", description="1 to 64 lower-case letters, digits and '_'"),
]


class Settings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where the fleet's files are, and how its Tritons are asked.

    folder:        where models' files are, by default ``fleet`` in the data directory. Servers
                   that share a database share it too.
    probe:         seconds between two looks at a Triton.
    timeout:       seconds that a Triton may take for an answer, but for loading.
    load_timeout:  seconds that it may take to load a model.
    max_model_mb:  the largest upload of a model's files.
    unfinished_mb: what unfinished uploads in chunks may take in all.
    backends:      Triton's backends that models may ask for.
    code_backends: more of them, for administrators: theirs is code that runs in the Triton.
    shared_folders: below these lie the model repositories that are shared with Tritons.
    gateway:       what consumers' requests may cost.
    """

    folder: Annotated[str, Meta(min_length=1)] | None = None
    probe: Seconds = 1.0
    timeout: Seconds = 5.0
    load_timeout: Seconds = 120.0
    max_model_mb: Annotated[int, Meta(ge=1)] = 2_000
    unfinished_mb: Annotated[int, Meta(ge=1)] = 20_000
    backends: list[Backend] = field(default_factory=lambda: list(BACKENDS))
    code_backends: list[Backend] = []
    shared_folders: list[
        Annotated[str, Meta(pattern="^/", description="a path that begins with /")]
    ] = []
    gateway: GatewaySettings = GatewaySettings()
