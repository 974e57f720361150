"""What a plugin gives and gets: Backend, Model, Service and their contexts.

A backend is data: the catalogue, the schema and the docs exist with no framework imported. Its
``load`` runs in a worker and returns a model; models are plain blocking objects, the server owns
the threads and processes around them.

Structs describe a model on its way: what is registered (``registry.Entry``) becomes what backends
look at (``ModelFiles``); the one that serves it is an ``Offer``, the backend with its plugin; with
the model's settings that makes a ``ModelPlan``, what it takes to load it; placed on a device it
travels to the worker as an ``Assignment``, which gives ``load`` a ``ModelSpec`` and a
``LoadContext``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar

from mataserver.params import Params, build

if TYPE_CHECKING:
    import logging
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    import numpy as np
    from msgspec import Struct
    from numpy.typing import NDArray

    from mataserver.config import Alpha
    from mataserver.results import Result

    Image = NDArray[np.uint8]

T = TypeVar("T")

LONGEST_STEP = 3600.0
"""Seconds that a backend may state for one step: a model that hangs must be noticed."""


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """What is known of a model before anything is loaded.

    ``name`` is the registry key; ``source`` is "hf", "pip" or "local"; ``path`` its directory or
    file (None for "pip"); ``config`` the decoded ``config.json`` of that directory, or empty;
    ``settings`` the settings struct of the plugin that is asked (None if it declares none).
    """

    name: str
    source: str
    path: Path | None = None
    config: dict[str, Any] = field(default_factory=dict)
    settings: Any = None

    @property
    def model_type(self) -> str:
        """``model_type`` of ``config.json``, or an empty string."""
        return str(self.config.get("model_type", ""))


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """The model that ``Backend.load`` is asked for.

    ``path`` is a local directory (a snapshot of the hub's repository) or a file; None for "pip".
    """

    name: str
    task: str
    source: str
    path: Path | None = None


@dataclass(frozen=True, slots=True)
class Part:
    """A model that a backend is composed of: a registered name, or its own, and the task."""

    model: str
    task: str


@dataclass(frozen=True, slots=True)
class LoadedPart:
    """A part, loaded in the same worker.

    ``params`` is the struct of its parameters, ``defaults`` what the configuration sets among them
    (``models[].params`` of the part's own entry). ``model`` is what its ``load`` returned: a
    ``Model``, with the optional methods that such have.
    """

    model: Any
    params: type[Params]
    defaults: Mapping[str, Any] = field(default_factory=dict)

    def params_with(self, **overrides: Any) -> Params:
        """Return the parameters to call the part with.

        An override counts where the part has such a parameter and it is not None; the others are
        the defaults. Raises ``InvalidParams`` when a parameter is missing or wrong.
        """
        own = self.params.__struct_fields__
        wanted = {name: value for name, value in overrides.items() if name in own}
        known = {name: value for name, value in wanted.items() if value is not None}
        return build({**self.defaults, **known}, self.params)

    asked = params_with
    """Its first name."""


@dataclass(frozen=True, slots=True)
class LoadContext:
    """Plain data for ``Backend.load``; it crosses a process boundary.

    ``settings`` is the plugin's settings struct (None if it declares none); ``device`` is "auto",
    "cpu", "cuda" or "cuda:N"; ``dtype`` "auto", "float32", "float16" or "bfloat16"; ``threads``
    the number of threads a forward pass may use (0: the framework's own choice); ``parts`` the
    models that ``Backend.parts`` named; ``max_pixels`` the largest image that ``decode_image`` is
    to take; ``compile`` whether to compile the model (None: as the plugin's settings say);
    ``max_batch`` how many images ``predict`` is given at most; ``alpha`` the ground that
    ``decode_image`` is to lay transparent pictures on.
    """

    settings: Any
    device: str
    dtype: str
    threads: int
    data_dir: Path
    log: logging.Logger
    parts: Mapping[str, LoadedPart] = field(default_factory=dict)
    max_pixels: int = 50_000_000
    compile: bool | None = None
    max_batch: int = 1
    alpha: Alpha = "white"


class Model(Protocol):
    """A loaded model.

    It may also offer ``session(params)`` (an object with ``step(image) -> Result``, for models
    that keep state from frame to frame), ``stream(image, params)`` (an iterator of pieces of text
    whose last item is the result, for models that generate), public methods that a service calls
    through its handle, ``step_timeout`` in place of the backend's, and ``close()``.
    """

    def predict(self, images: Sequence[Image], params: Sequence[Any]) -> Sequence[Result | Struct]:
        """Return one result per image.

        ``images`` are RGB uint8 arrays ``[H, W, 3]`` of any sizes, ``params`` the backend's params
        structs; both lists have the same length, at most the model's ``max_batch``. The arrays of
        a result belong to the server from then on: do not write into them again. Raise
        ``InvalidParams`` for a parameter that this model cannot serve.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Backend:
    """One way to serve a task.

    name:     unique name; for ``source="pip"`` also the id that users pull.
    task:     one of ``results.TASKS``, or one that the plugin brings: "plugin.name".
    source:   "hf" serves models of the hub and local directories that look the same; "pip" serves
              the one model called ``name`` whose weights come with its packages; "local" serves
              local files; "any" serves models of every source.
    load:     a module-level function ``load(spec, ctx) -> Model``; it runs in the worker and is
              the place to import the framework.
    params:   the struct of the parameters it uses.
    result:   the struct of what it returns, for a task that its plugin brings, and only for such.
    accepts:  which models of that source it serves; by default every one for "pip" and none else.
              It may raise a ``MataError`` that says why a model of its kind cannot be served.
    requires: importable modules without which it cannot load (checked without importing them).
    packages: what ``pip install`` needs to make ``requires`` true; also what ``pull`` installs.
    system_binary: an executable that must be on PATH, if any.
    gpu:      whether it uses a CUDA device where there is one: its models count against VRAM.
    compiles: whether it can compile a model; others refuse ``models[].compile: true``.
    engine:   where it runs unless the configuration says otherwise.
    preload:  modules that the plugin's zygote imports once, before it forks workers. Leave empty
              for frameworks that start threads at import (onnxruntime).
    max_batch: the largest batch ``predict`` is given unless the configuration says otherwise.
    environment: variables set in the worker before anything is imported.
    parts:    ``parts(files, settings)`` names the other models that it is composed of, each under
              the label that ``LoadContext.parts`` has it by. They are loaded in the same worker.
    facts:    ``facts(files)`` returns what was decided about a model that it serves, as texts by
              name, which ``mataserver show`` prints. It loads nothing and may raise ``MataError``.
    step_timeout: seconds that one step may take (a batch, a call, an item of a generator), where
              that is more than the server's ``infer_timeout``; at most an hour.
    confined: False where it must change files outside of its own directory in ``data_dir``, or
              make system calls that are else refused: ``ptrace``, ``mount``, ``bpf`` and the like.
    """

    name: str
    task: str
    source: Literal["hf", "pip", "local", "any"]
    load: Callable[[ModelSpec, LoadContext], Model]
    params: type[Params] = Params
    result: type[Struct] | None = None
    accepts: Callable[[ModelFiles], bool] | None = None
    requires: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()
    system_binary: str | None = None
    gpu: bool = False
    compiles: bool = False
    engine: Literal["process", "thread"] = "process"
    preload: tuple[str, ...] = ()
    max_batch: int = 1
    environment: tuple[tuple[str, str], ...] = ()
    parts: Callable[[ModelFiles, Any], Mapping[str, Part]] | None = None
    facts: Callable[[ModelFiles], Mapping[str, str]] | None = None
    step_timeout: float = 0.0
    confined: bool = True

    def serves(self, files: ModelFiles, task: str) -> bool:
        """Whether this backend serves that model for that task."""
        if task != self.task or files.source not in _SERVED[self.source]:
            return False
        if self.source == "pip":
            return files.name == self.name
        return self.accepts is not None and self.accepts(files)


_SERVED: dict[str, frozenset[str]] = {
    "hf": frozenset({"hf", "local"}),
    "pip": frozenset({"pip"}),
    "local": frozenset({"local"}),
    "any": frozenset({"hf", "pip", "local"}),
}
