"""The backend side of the contract: Backend, Model and their contexts.

A backend is data: the catalogue, the schema and the docs are built without importing a framework.
Its ``load`` runs in a worker and returns a model; models are plain blocking objects, and the server
owns the threads and processes around them.

Stages of a model: a registered ``registry.Entry``, as seen by backends, is ``ModelFiles``; the
backend that serves it, with its plugin, is an ``ProvidedBackend``; with the model's settings that
makes a ``ModelPlan``; placed on a device, it is sent to the worker as an ``Assignment``, which
calls ``load`` with a ``ModelSpec`` and a ``LoadContext``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar

from mataserver.params.parsing import build
from mataserver.params.table import Params

if TYPE_CHECKING:
    import logging
    from collections.abc import Callable, Sequence
    from pathlib import Path

    import numpy as np
    from msgspec import Struct
    from numpy.typing import NDArray

    from mataserver.config import Alpha
    from mataserver.results import Result

    Image = NDArray[np.uint8]

T = TypeVar("T")

MAX_STEP_TIMEOUT = 3600.0
"""Maximum seconds that a backend may declare for one step, so that hangs are detected."""


def is_step_timeout(given: Any) -> bool:
    """Whether these are seconds that one step may take; NumPy's numbers are, too."""
    try:
        return 0 <= float(given) <= MAX_STEP_TIMEOUT
    except (TypeError, ValueError, OverflowError):
        return False


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """What is known of a model before it is loaded.

    ``name`` is the registry key; ``source`` is "hf", "pip" or "local", which is also a model of a
    plugin's source; ``path`` its directory or file (None for "pip"); ``config`` the decoded
    ``config.json`` of that directory, or empty; ``settings`` the settings struct of the calling
    plugin (None if it declares none).
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
    """The model that ``Backend.load`` is called for.

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

    ``params`` is the struct of its parameters; ``defaults`` are those set by the configuration
    (``models[].params`` of the part's own entry). ``model`` is the result of its ``load``: a
    ``Model``, with its optional methods.
    """

    model: Any
    params: type[Params]
    defaults: Mapping[str, Any] = field(default_factory=dict)

    def params_with(self, **overrides: Any) -> Params:
        """Return the parameters to call the part with.

        An override applies if the part has that parameter and the value is not None; all others are
        the defaults. Raises ``InvalidParams`` if a parameter is missing or invalid.
        """
        own = self.params.__struct_fields__
        wanted = {name: value for name, value in overrides.items() if name in own}
        known = {name: value for name, value in wanted.items() if value is not None}
        return build({**self.defaults, **known}, self.params)

    asked = params_with
    """Former name."""

    @property
    def labels(self) -> list[str] | None:
        """All labels that a detector states; None if it states none, or what are no texts.

        A mapping, as from the numbers of its classes, states its values.
        """
        stated = getattr(self.model, "labels", None)
        if isinstance(stated, Mapping):
            stated = stated.values()
        if isinstance(stated, str) or not isinstance(stated, Iterable):
            return None
        found = list(stated)
        return found if all(isinstance(each, str) for each in found) else None


@dataclass(frozen=True, slots=True)
class LoadContext:
    """Plain data for ``Backend.load``; it is serialized across a process boundary.

    ``settings`` is the plugin's settings struct (None if it declares none); ``device`` is "auto",
    "cpu", "cuda" or "cuda:N"; ``dtype`` "auto", "float32", "float16" or "bfloat16"; ``threads`` the
    number of threads of a forward pass (0: the framework's default); ``parts`` the models that
    ``Backend.parts`` named; ``max_pixels`` the limit for ``decode_image``; ``compile`` whether to
    compile the model (None: as the plugin's settings say); ``max_batch`` the maximum number of
    images per ``predict``; ``alpha`` the background on which ``decode_image`` composes transparent
    pictures; ``decode_timeout`` the seconds that a model may decode one picture or frame.
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
    decode_timeout: float = 10.0


MODEL_METHODS = {"predict": "images, params", "session": "params", "stream": "image, params"}
"""The methods of a model that the server itself calls, with their arguments."""


class Model(Protocol):
    """A loaded model.

    Optional members: ``session(params)`` (returns an object with ``step(image) -> Result``, for
    models that keep state between frames), ``stream(image, params)`` (an iterator of text pieces
    whose last item is the result, for generative models; an empty piece is progress without text),
    ``lazy_images`` (True: in place of the image ``stream`` gets a function that returns it, to be
    called once, in any thread; for a model that keeps streams waiting), public methods that a
    service calls through its handle, ``step_timeout`` to override the backend's, and ``close()``.
    """

    def predict(self, images: Sequence[Image], params: Sequence[Any]) -> Sequence[Result | Struct]:
        """Return one result per image.

        ``images`` are RGB uint8 arrays ``[H, W, 3]`` of any sizes, ``params`` the backend's params
        structs; both sequences have the same length, at most the model's ``max_batch``. The server
        takes ownership of a result's arrays: do not modify them afterwards. Raise ``InvalidParams``
        for a parameter that this model does not support.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class Backend:
    """One way to serve a task.

    name:     unique name; for ``source="pip"`` also the id that users pull.
    task:     one of ``results.TASKS``, or the plugin's own: "plugin.name".
    source:   "hf" serves models of the hub and local directories with the same layout; "pip" serves
              the one model called ``name`` whose weights come with its packages; "local" serves
              local files; "any" serves models of every source.
    load:     a module-level function ``load(spec, ctx) -> Model``; it runs in the worker, and is
              where to import the framework.
    params:   the struct of its parameters.
    result:   the struct of its results, for the plugin's own tasks only.
    accepts:  which models of that source it serves; by default all for "pip", none otherwise. It
              may raise a ``MataError`` that says why a model of its kind cannot be served.
    requires: importable modules that it needs (checked without importing them).
    packages: what ``pip install`` needs to provide ``requires``; also what ``pull`` installs.
    system_binary: an executable that must be on PATH, if any.
    gpu:      whether it uses a CUDA device if there is one: its models count against VRAM.
    compiles: whether it can compile a model; otherwise ``models[].compile: true`` is rejected.
    engine:   the engine unless the configuration says otherwise.
    preload:  modules that the plugin's zygote imports once, before it forks workers. Leave empty
              for frameworks that start threads at import (onnxruntime).
    max_batch: the maximum batch size unless the configuration says otherwise.
    environment: variables set in the worker before any import.
    parts:    ``parts(files, settings)`` names the other models that it is composed of, by their
              labels in ``LoadContext.parts``. They are loaded in the same worker.
    facts:    ``facts(files)`` returns decisions about a model that it serves, as texts by name, for
              ``mataserver show``. It loads nothing and may raise ``MataError``.
    step_timeout: maximum seconds of one step (a batch, a call, an item of a generator), if
              more than the server's ``infer_timeout``; at most an hour.
    confined: False if it must write outside its own directory in ``data_dir``, or make system calls
              that are otherwise denied: ``ptrace``, ``mount``, ``bpf`` and the like.
    default:  whether the model of a "pip" backend is registered without a pull, once per data
              directory, if what it ``requires`` is installed.
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
    default: bool = False

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
