"""The plan of a model: everything needed to load it, from the catalogue to the engine."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mataserver.contract.backend import LoadedPart
from mataserver.params import parsing, table

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mataserver.config import ModelSettings
    from mataserver.contract.backend import Backend, ModelSpec
    from mataserver.params.table import Params


@dataclass(frozen=True, slots=True)
class ModelPlan:
    """Everything needed to load a model.

    ``family`` is the common name of its distribution's plugins. ``estimate`` is its memory in bytes
    before the first load. ``edition`` identifies the files at the time of registration, to detect
    others registered later at the same place.
    """

    spec: ModelSpec
    backend: Backend
    plugin: str
    plugin_settings: object
    settings: ModelSettings
    estimate: int
    parts: Mapping[str, ModelPlan] = field(default_factory=dict)
    family: str = ""
    edition: str = ""
    _default_params: dict[int, Params] = field(default_factory=dict, repr=False, compare=False)
    """Cache of the parameters of an empty request, by the server's ceiling."""

    def same_model(self, other: ModelPlan) -> bool:
        """Whether a worker of this plan also serves the other one."""
        if self is other:
            return True
        mine, others = self.parts, other.parts
        return (
            (self.spec, self.edition, self.backend) == (other.spec, other.edition, other.backend)
            and mine.keys() == others.keys()
            and all(part.same_model(others[label]) for label, part in mine.items())
        )

    @property
    def with_parts(self) -> list[ModelPlan]:
        """The plan and the plans of its parts."""
        return [self, *(each for part in self.parts.values() for each in part.with_parts)]

    @property
    def owner(self) -> str:
        """The family whose zygote forks its worker, and whose ``data_dir`` folder it may write."""
        return self.family or self.plugin

    @property
    def uses_gpu(self) -> bool:
        """Whether it, or a part of it, uses a GPU if there is one."""
        return any(each.backend.gpu for each in self.with_parts)

    def params(self, given: Any, max_tokens: int, *, text: bool = False) -> Params:
        """Parse the parameters of an inference: the only place where that happens.

        ``given`` is a mapping of names as in a request (with ``text``, as in a form or a query), or
        a struct of the backend, whose types the worker checks. Missing values come from the model's
        configuration, then from the backend; ``max_tokens`` is the server's ceiling. Raises
        ``InvalidParams`` naming the parameter.
        """
        defaults = self.settings.params
        if isinstance(given, table.Params):
            parsing.check_ceiling(given, defaults, max_tokens)
            return given
        parse = parsing.parse_text if text else parsing.parse
        named = parsing.check_object(given)
        if not named and max_tokens in self._default_params:
            return self._default_params[max_tokens]
        found = parse(named, self.backend.params, defaults=defaults, max_tokens=max_tokens)
        _check(self, found)
        if not named and _is_fixed(found):
            self._default_params[max_tokens] = found
        return found

    def engine(self, preferred: str) -> str:
        """Return its engine: the model's setting, else the server's, else the backend's."""
        chosen: str = self.settings.engine
        if chosen == "auto" and self.settings.max_ram_mb is not None:
            return "process"  # a thread's share of the process's memory cannot be measured
        if chosen == "auto":
            chosen = self.backend.engine if preferred == "auto" else preferred
        return chosen

    @property
    def key(self) -> tuple[str, str]:
        """The pool's key: a model may serve two tasks."""
        return (self.spec.name, self.spec.task)


def _check(plan: ModelPlan, found: Params) -> None:
    """Raise ``InvalidParams`` for what the backend, or a part of it, cannot answer."""
    found.check()
    for label, given in found.of_parts().items():
        part = plan.parts[label]
        kind = part.backend.params
        defaults = parsing.configured(part.settings.params, kind)
        _check(part, LoadedPart(None, kind, defaults).params_with(**given))


def _is_fixed(found: Params) -> bool:
    """Whether parameters are immutable, so that they can be shared between requests."""
    try:
        hash(found)
    except TypeError:
        return False
    return True
