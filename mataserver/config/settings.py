"""The settings of a server: their names, ranges and defaults."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from mataserver.config.needs import Needs, Span
from mataserver.errors import MataError

EVERY = frozenset({"", "0.0.0.0", "::"})  # noqa: S104 - compared with, not listened on
"""Hosts that mean every interface."""
Fraction = Annotated[float, Meta(gt=0.0, le=1.0)]
Seconds = Annotated[float, Meta(gt=0.0, le=86_400.0)]
Count = Annotated[int, Meta(gt=0)]
Port = Annotated[int, Meta(ge=0, le=65_535)]
KeepAlive = Annotated[float, Meta(ge=-1.0, le=31_536_000.0)]
Origin = Annotated[
    str,
    Meta(
        pattern=r"^(\*|https?://[^/\s*]+)\Z",
        description="an origin such as https://app.example.com, or *",
        max_length=512,
    ),
]
Device = Annotated[
    str, Meta(pattern=r"^(auto|cpu|cuda(:\d+)?)\Z", description="auto, cpu, cuda or cuda:N")
]
SetBy = Literal["default", "yaml", "dotenv", "environment", "option"]
DType = Literal["auto", "float32", "float16", "bfloat16"]
Runtime = Literal["native", "auto"]
ENGINE_NAME = r"^[a-z][a-z0-9_]{0,63}\Z"
Engine = Annotated[
    str,
    Meta(
        pattern=ENGINE_NAME,
        description="auto, process, thread, ray or the name of a plugin's engine",
    ),
]
RayAddress = Annotated[
    str,
    Meta(
        pattern=r"^(auto|[A-Za-z0-9._-]+:\d{1,5}|\[[0-9A-Fa-f:]+\]:\d{1,5})\Z",
        description="auto, or HOST:PORT",
    ),
]
Text = Annotated[str, Meta(min_length=1)]
"""Not empty, as a variable without its value is: every address, or the working directory."""
Key = Annotated[
    str,
    Meta(
        pattern=r"^(?!\s)[^\x00-\x1f\x7f]*(?<!\s)\Z",
        description="a key that a request can carry: no space at an end, no control character",
    ),
]
Scope = Literal[
    "infer",
    "models:read",
    "models:write",
    "jobs:read",
    "jobs:write",
    "fleet:read",
    "fleet:write",
    "admin",
]
Alpha = Literal["white", "black", "drop"]
CameraSource = Annotated[str, Meta(min_length=1, max_length=2048)]
Rate = Annotated[float, Meta(gt=0.0, le=1_000.0)]
OutboundHost = Annotated[
    str,
    Meta(
        pattern=r"^(\*|[A-Za-z0-9._:-]+(/\d{1,3})?)\Z",
        description="a host's name, an address, a network such as 10.0.0.0/8, or *",
        max_length=255,
    ),
]
FrontendAddress = Annotated[
    str,
    Meta(
        pattern=r"^https?://([A-Za-z0-9._-]+|\[[0-9A-Fa-f:]+\])(:\d{1,5})?\Z",
        description="http:// or https:// with a host and a port, and no path",
        max_length=255,
    ),
]
HostName = Annotated[
    str,
    Meta(
        pattern=r"^(\*|[A-Za-z0-9._-]+)\Z",
        description="a host's name or address without a port, or *",
        max_length=255,
    ),
]
Variable = Annotated[
    str,
    Meta(
        pattern=r"^[A-Za-z_][A-Za-z0-9_]*\*?\Z",
        description="a variable's name, or its beginning and *",
        max_length=255,
    ),
]


class ConfigError(MataError):
    """A setting is invalid; the detail names its key."""


class ModelSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One entry of ``models:``: how a registered model is served.

    model:       its name in the registry; an unregistered model is registered if its weights are
                 present (a cached hub model, an installed pip backend, ``path``).
    task:        needed only for a model that is not registered yet.
    path:        a local directory or file to register under ``model``.
    engine:      "process", "thread", "ray", a plugin's, or "auto" (the backend's preference).
    device:      "auto", "cpu", "cuda" or "cuda:N".
    dtype:       "auto", "float32", "float16" or "bfloat16".
    runtime:     "auto" formerly converted it at the pull; now a warning names ``mataserver
    export``.
    alpha:       the background for transparent pictures, or "drop".
    threads:     threads of a forward pass; 0 leaves the choice to the framework.
    compile:     whether to compile the model at load; None leaves it to its plugin.
    replicas:    number of workers; distributed over several GPUs. Or ``min``, ``max`` and
                 ``target``, for autoscaling by load.
    max_batch:   maximum batch size; 0 for the backend's.
    max_wait_ms: how long an incomplete batch may wait for more jobs while the model is busy.
    preload:     load at start; ``/ready`` waits for it. It then stays loaded, unless ``keep_alive``
                 says otherwise.
    pin:         never evict it under memory pressure.
    keep_alive:  idle seconds until it is unloaded; 0 at once, -1 never.
    max_ram_mb:  memory limit of each worker; exceeding it is a 507, and replaces the worker.
    needs:       with the engine "ray", a node's resources for each of its workers.
    params:      inference parameters for requests that give none.
    """

    model: Annotated[str, Meta(min_length=1, max_length=512)]
    task: str | None = None
    path: str | None = None
    engine: Engine = "auto"
    device: Device | None = None
    dtype: DType | None = None
    runtime: Runtime | None = None
    alpha: Alpha | None = None
    threads: Annotated[int, Meta(ge=0, le=1024)] | None = None
    compile: bool | None = None
    replicas: Annotated[int, Meta(ge=1, le=64)] | Span = 1
    max_batch: Annotated[int, Meta(ge=0, le=1024)] = 0
    max_wait_ms: Annotated[float, Meta(ge=0.0, le=10_000.0)] = 0.0
    preload: bool = False
    pin: bool = False
    keep_alive: KeepAlive | None = None
    max_ram_mb: Annotated[float, Meta(gt=0.0, le=16_777_216.0)] | None = None
    needs: Needs | None = None
    params: dict[str, Any] = {}

    @property
    def span(self) -> Span:
        """The range of its number of workers."""
        count = self.replicas
        return Span(min=count, max=count) if isinstance(count, int) else count


class ApiKey(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One entry of ``api_keys`` with restricted scopes.

    key:    the key itself.
    name:   its owner, for display.
    scopes: its permissions, of those that docs/config.md lists; None for all.
    """

    key: Annotated[Key, Meta(min_length=1, max_length=512)]
    name: Annotated[str, Meta(min_length=1, max_length=64)] = "key"
    scopes: list[Scope] | None = None


class Settings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Every setting; each, except maps, also as the variable ``MATA_SERVER_<NAME>``.

    Times are in seconds, sizes as their names say. docs/config.md describes every field.
    """

    host: Text = "127.0.0.1"
    port: Port = 8110
    auth_mode: Literal["api_key", "none"] = "api_key"
    api_keys: list[Key | ApiKey] = []
    api_key: Key | None = None
    cors_origins: list[Origin] = []
    data_dir: Text = "~/.mataserver"
    shared_dir: Text | None = None
    frontend_address: FrontendAddress | None = None
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["text", "json"] = "text"
    keep_alive: KeepAlive = 300.0
    min_residence: Annotated[float, Meta(ge=0.0, le=86_400.0)] = 10.0
    max_vram_fraction: Fraction = 0.9
    max_ram_fraction: Fraction = 0.9
    device: Device = "auto"
    dtype: DType = "auto"
    runtime: Runtime = "native"
    engine: Engine = "auto"
    threads: Annotated[int, Meta(ge=0, le=1024)] = 0
    decode_threads: Annotated[int, Meta(ge=0, le=256)] = 0
    scaled_decode: bool = True
    alpha: Alpha = "white"
    load_timeout: Seconds = 600.0
    infer_timeout: Seconds = 60.0
    decode_timeout: Seconds = 10.0
    drain_timeout: Seconds = 30.0
    queue_limit: Count = 64
    ray_address: RayAddress = "auto"
    ray_room: Seconds = 30.0
    ray_silence: Annotated[float, Meta(ge=1.0, le=600.0)] = 6.0
    max_body_mb: Annotated[float, Meta(gt=0.0, le=4_096.0)] = 32.0
    max_inflight_mb: Annotated[float, Meta(ge=0.0, le=1_048_576.0)] = 0.0
    max_pixels: Annotated[int, Meta(gt=0, le=178_956_970)] = 50_000_000
    max_tokens: Count = 4_096
    body_timeout: Seconds = 30.0
    short_way: bool = True
    max_connections: Annotated[int, Meta(ge=0, le=1_000_000)] = 0
    max_sessions: Count = 10
    caller_share: Fraction = 1.0
    session_ttl: Seconds = 300.0
    unread_timeout: Seconds = 30.0
    ping_interval: Seconds = 20.0
    outbound_hosts: list[OutboundHost] = []
    allow_pip_pull: bool = True
    inherit_variables: list[Variable] = []
    confine_models: bool = True
    register_defaults: bool = True
    metrics_public: bool = True
    observe_infer: bool = False
    health_status: Literal["ok", "healthy"] = "ok"
    trust_proxy: bool = False
    allowed_hosts: list[HostName] = []
    models: list[ModelSettings] = []
    plugins: dict[str, Any] = {}

    @property
    def data_path(self) -> Path:
        """``data_dir`` as an absolute path."""
        return Path(self.data_dir).expanduser().absolute()

    @property
    def shared_path(self) -> Path:
        """The directory common to all front-ends: ``shared_dir``, or ``data_dir`` without one."""
        return Path(self.shared_dir or self.data_dir).expanduser().absolute()

    @property
    def registry_path(self) -> Path:
        """The path of the model registry."""
        return self.shared_path / "model_registry.json"

    @property
    def keys(self) -> tuple[str, ...]:
        """The API keys of ``api_keys`` and ``api_key``, without duplicates."""
        return tuple(entry.key for entry in self.key_entries)

    @property
    def key_entries(self) -> tuple[ApiKey, ...]:
        """The keys with their scopes; of a duplicate key the first entry applies."""
        every = [*self.api_keys, *([self.api_key] if self.api_key else [])]
        entries = [ApiKey(key=each) if isinstance(each, str) else each for each in every if each]
        found: dict[str, ApiKey] = {}
        for entry in entries:
            found.setdefault(entry.key, entry)
        return tuple(found.values())

    @property
    def max_body(self) -> int:
        """The largest request body in bytes; MB are 1e6 bytes."""
        return round(self.max_body_mb * 1e6)

    def model(self, name: str) -> ModelSettings:
        """Return the settings of one model; defaults without an entry."""
        for entry in self.models:
            if entry.model == name:
                return entry
        return ModelSettings(model=name)

    def runtime_of(self, name: str) -> Runtime:
        """Return a model's effective ``runtime``: "auto" if a pull formerly converted it."""
        return self.model(name).runtime or self.runtime
