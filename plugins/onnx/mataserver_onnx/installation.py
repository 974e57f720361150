"""Which models the backends accept, the packages that they need, and their workers' environment.

Nothing is preloaded: onnxruntime and openvino start threads at import, which no fork survives.
What reads networks is imported when the first is looked at: a server starts without it.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
from typing import TYPE_CHECKING

from mataserver import Unavailable
from mataserver_onnx.options import ModelOptions, Settings

if TYPE_CHECKING:
    from collections.abc import Callable

    from mataserver import ModelFiles

REQUIRES = ("onnxruntime", "PIL")
PACKAGES = ("onnxruntime>=1.20", "pillow>=11.3")


def _installed(distribution: str) -> bool:
    try:
        importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


EXPORTS = ("torch", "transformers", "onnx", "onnxscript")
"""The packages that an export needs; serving does not."""

GPU = _installed("onnxruntime-gpu")
"""Whether the installed variant of ONNX Runtime is the one for CUDA."""

ENVIRONMENT = (
    # Otherwise onnxruntime records usage in the user's home and may report it.
    ("ORT_DISABLE_TELEMETRY", "1"),
)


def version() -> str:
    """Return the version of this plugin."""
    return importlib.metadata.version("mataserver-onnx")


def importable(module: str) -> bool:
    """Whether a module is installed, without importing it."""
    return importlib.util.find_spec(module) is not None


def check_exports() -> None:
    """Raise ``Unavailable`` when a package that an export needs is not installed."""
    for package in EXPORTS:
        if not importable(package):
            raise Unavailable(f"{package} is not installed: pip install 'mataserver-onnx[export]'")


def accepting(task: str, families: frozenset[str]) -> Callable[[ModelFiles], bool]:
    """Return the function that decides whether a model's files hold a network for ``task``.

    Of a hub model that is about to be pulled only the ``model_type`` is known. The function raises
    ``MataError`` for a file that is broken, and for a network whose outputs are not recognised, are
    ambiguous, or contradict its metadata: the settings can name the layout. Also for one that takes
    images of any size, where no size is stated, and for timm's settings that cannot be used.
    """

    def accepts(given: ModelFiles) -> bool:
        if given.path is None:
            return given.source == "hf" and given.model_type in families
        return _serves(given, task)

    return accepts


def facts(task: str, given: ModelFiles) -> dict[str, str]:
    """Return how a network's outputs are read. Raises ``MataError`` for one that is not served."""
    if given.path is None:
        return {}
    from mataserver_onnx import bundle as files
    from mataserver_onnx import layouts, outputs, scores

    options = _options(given)
    bundle = files.open_bundle(given.path, options.file)
    graph, config = bundle.graph, bundle.config
    layout = layouts.choose(graph, config, task, options)
    origin = "stated" if options.layout else "recognised"
    found = {"layout": f"{layout} ({origin})"}
    if layout in {"classes", "semantic"}:
        [output] = outputs.output_names(graph, config, layout, options)
        found["scores"] = str(scores.decide(graph, output, given.config, options))
    return found


def _serves(given: ModelFiles, task: str) -> bool:
    from mataserver_onnx import bundle as files
    from mataserver_onnx import layouts, sizes, timm_settings

    path = given.path
    if path is None or not _is_network(given):
        return False
    options = _options(given)
    try:
        bundle = files.open_bundle(path, options.file)
    except files.AmbiguousNetworkError:
        return True
    if not layouts.serves(bundle.graph, bundle.config, task, options):
        return False
    layout = layouts.choose(bundle.graph, bundle.config, task, options)
    # These raise now rather than at the first load.
    sizes.size_of(bundle, layout, options)
    timm_settings.find(bundle, layout, options)
    return True


def _options(given: ModelFiles) -> ModelOptions:
    """Return the settings of a model."""
    settings = given.settings
    return settings.model(given.name) if isinstance(settings, Settings) else ModelOptions()


def _is_network(given: ModelFiles) -> bool:
    from mataserver_onnx import bundle as files

    path = given.path
    if path is None or not path.is_dir():
        return path is not None and path.suffix in files.SUFFIXES
    names = ("openvino_model.xml", "openvino/openvino_model.xml")  # refused without its weights
    return any((path / name).is_file() for name in names) or bool(files.networks(path))
