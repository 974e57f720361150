"""All that it takes to load a model, from the catalogue to the engine."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mataserver import params

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mataserver.config import ModelSettings
    from mataserver.contract.backend import Backend, ModelSpec
    from mataserver.params import Params


@dataclass(frozen=True, slots=True)
class ModelPlan:
    """All that it takes to load a model.

    ``family`` is what the plugins of its distribution are called together. ``estimate`` is its
    memory in bytes before it is known. ``edition`` tells the files that were there when it was
    registered from those that another registration found at the same place.
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
    _unasked: dict[int, Params] = field(default_factory=dict, repr=False, compare=False)
    """The parameters of a request that says nothing, by the server's ceiling."""

    def same_model(self, other: ModelPlan) -> bool:
        """Whether a worker of this plan serves the other one too."""
        if self is other:
            return True
        mine, others = self.parts, other.parts
        return (
            (self.spec, self.edition, self.backend) == (other.spec, other.edition, other.backend)
            and mine.keys() == others.keys()
            and all(part.same_model(others[label]) for label, part in mine.items())
        )

    @property
    def whole(self) -> list[ModelPlan]:
        """It and its parts."""
        return [self, *(each for part in self.parts.values() for each in part.whole)]

    @property
    def owner(self) -> str:
        """Whose zygote forks its worker, and whose folder of the data directory is its own."""
        return self.family or self.plugin

    @property
    def uses_gpu(self) -> bool:
        """Whether it, or a part of it, uses a GPU where there is one."""
        return self.backend.gpu or any(part.uses_gpu for part in self.parts.values())

    def params(self, given: Any, max_tokens: int, *, text: bool = False) -> Params:
        """Return the parameters of an inference: the one place where they are parsed.

        ``given`` is a mapping of names as a request carries them, with ``text`` as a form or a
        query does, or a struct of the backend, of which the worker checks the types. What it leaves
        out comes from the model's entry in the configuration, then from the backend; ``max_tokens``
        is the server's ceiling. Raises ``InvalidParams`` naming the parameter.
        """
        defaults = self.settings.params
        if isinstance(given, params.Params):
            params.check_ceiling(given, defaults, max_tokens)
            return given
        parse = params.parse_text if text else params.parse
        named = params.check_object(given)
        if not named and max_tokens in self._unasked:
            return self._unasked[max_tokens]
        found = parse(named, self.backend.params, defaults=defaults, max_tokens=max_tokens)
        found.check()
        if not named and _is_fixed(found):
            self._unasked[max_tokens] = found
        return found

    def engine(self, preferred: str) -> str:
        """Return the engine that it runs on: its own, else the server's, else the backend's."""
        chosen: str = self.settings.engine
        if chosen == "auto" and self.settings.max_ram_mb is not None:
            return "process"  # of a thread's memory nobody knows how much is its own
        if chosen == "auto":
            chosen = self.backend.engine if preferred == "auto" else preferred
        return chosen

    @property
    def names(self) -> set[str]:
        """The names of the model and of all of its parts."""
        return {self.spec.name}.union(*(part.names for part in self.parts.values()))

    @property
    def key(self) -> tuple[str, str]:
        """What the pool knows it by: a model may serve two tasks."""
        return (self.spec.name, self.spec.task)


def _is_fixed(found: Params) -> bool:
    """Whether nobody who gets parameters can change what they hold, such as a list."""
    try:
        hash(found)
    except TypeError:
        return False
    return True
