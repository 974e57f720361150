"""Starts the workers of a plan, on the engine that its configuration or backend selects."""

from __future__ import annotations

import asyncio
import logging
import os
from dataclasses import replace
from typing import TYPE_CHECKING

from mataserver.config.needs import Needs
from mataserver.contract.backend import LoadContext
from mataserver.engines import confinement
from mataserver.engines.replicas import Replicas
from mataserver.engines.work import Assignment, Placement
from mataserver.errors import MataError, Unavailable
from mataserver.params import parsing
from mataserver.plugin_ends import ends_as_errors
from mataserver.sources import links, local

if TYPE_CHECKING:
    from mataserver.config import ModelSettings, Settings
    from mataserver.engines.memory import MemoryProbe
    from mataserver.engines.work import Worker
    from mataserver.library.plans import ModelPlan
    from mataserver.processes.landlock import Confinement
    from mataserver.serving.engine_set import EngineSet

log = logging.getLogger("mataserver.pool")


class Loader:
    """Loads models, each on the engine that its configuration or its backend selects."""

    def __init__(self, settings: Settings, probe: MemoryProbe, engines: EngineSet) -> None:
        self._settings = settings
        self._probe = probe
        self._engines = engines
        self._logged_editions: dict[str, str] = {}

    async def load(self, plan: ModelPlan) -> Worker:
        """Load a model with its configured number of replicas. Raises ``MataError``."""
        span = plan.settings.span
        if span.max == 1:
            return await self._start(plan, None)
        devices = self._devices(plan)

        replicas = Replicas(
            lambda i: self._start(plan, devices[i % len(devices)]),
            span.first,
            self._settings.load_timeout,
        )
        await replicas.load()
        return replicas

    async def _start(self, plan: ModelPlan, device: str | None) -> Worker:
        name = plan.engine(self._settings.engine)
        engine = self._engines.get(name)
        await asyncio.to_thread(_check_files, plan, self._logged_editions)
        needs = self._needs(plan)
        confinement = self._confinement(plan) if needs is None else None
        assignment = replace(
            self._assign(plan, plan.settings, device, needs), confinement=confinement
        )
        where = placement(plan, confined=confinement is not None)
        # Replicas start in tasks of their own, where ``sys.exit`` would end the event loop.
        with ends_as_errors():  # an engine may be a plugin's
            worker = await engine.start(assignment, where)
        if not hasattr(worker, "infer"):  # an engine may be a plugin's
            raise MataError(f"The engine {name} started no worker")
        return worker

    def _confinement(self, plan: ModelPlan) -> Confinement | None:
        """Return the file rules of a worker on this machine, None for one that is not confined."""
        every = plan.with_parts
        if not self._settings.confine_models or not all(each.backend.confined for each in every):
            return None
        paths = [each.spec.path for each in every if each.spec.path is not None]
        data, shared = self._settings.data_path, self._settings.shared_path
        return confinement.file_rules(
            data,
            {each.owner for each in every},
            paths,
            shared=None if shared == data else shared,
        )

    def _needs(self, plan: ModelPlan) -> Needs | None:
        """Return a worker's resource requirements on its node; None for one on this machine."""
        if not self._engines.is_remote(plan.engine(self._settings.engine)):
            return None
        return plan.settings.needs or Needs()

    def _assign(
        self, plan: ModelPlan, chosen: ModelSettings, device: str | None, needs: Needs | None
    ) -> Assignment:
        settings = self._settings
        cores = os.cpu_count() or 1 if needs is None else needs.threads
        context = LoadContext(
            settings=plan.plugin_settings,
            device=device or chosen.device or settings.device,
            dtype=chosen.dtype or settings.dtype,
            threads=self._threads(chosen, needs),
            data_dir=settings.data_path,
            log=logging.getLogger(f"mataserver.plugin.{plan.plugin}"),
            max_pixels=settings.max_pixels,
            compile=chosen.compile,
            max_batch=chosen.max_batch or plan.backend.max_batch,
            alpha=chosen.alpha or settings.alpha,
            # Shorter than the model's timeout, so that a slow image is blamed before the model is.
            decode_timeout=min(settings.decode_timeout, settings.infer_timeout / 2),
        )
        parts = {
            label: self._assign(part, chosen, device, needs) for label, part in plan.parts.items()
        }
        return Assignment(
            load=plan.backend.load,
            params_type=plan.backend.params,
            spec=plan.spec,
            context=context,
            decode_threads=settings.decode_threads or cores,
            infer_timeout=settings.infer_timeout,
            step_timeout=float(plan.backend.step_timeout),
            scaled_decode=settings.scaled_decode,
            parts=parts,
            defaults=parsing.configured(plan.settings.params, plan.backend.params),
            max_ram=round((plan.settings.max_ram_mb or 0.0) * 1e6),
            needs=needs,
            result=plan.backend.result,
        )

    def _threads(self, chosen: ModelSettings, needs: Needs | None) -> int:
        """Return the threads of a forward pass; replicas share the cores unless configured.

        On a cluster node it is limited to the threads that it requested.
        """
        threads = self._settings.threads if chosen.threads is None else chosen.threads
        if needs is not None:
            return threads or needs.threads
        if threads or chosen.span.max == 1:
            return threads
        return max(1, (os.cpu_count() or 1) // chosen.span.max)

    def _devices(self, plan: ModelPlan) -> list[str | None]:
        """Return the devices to assign to replicas in rotation."""
        device = plan.settings.device or self._settings.device
        here = self._needs(plan) is None
        count = len(self._probe.gpus()) if plan.uses_gpu and here else 0
        if device not in {"auto", "cuda"} or count < 2:
            return [None]
        return [f"cuda:{index}" for index in range(count)]


def _check_files(plan: ModelPlan, logged: dict[str, str]) -> None:
    """Check the files of a model and its parts just before they are read.

    Files that changed since the registration are logged, once per edition:
    ``logged`` is the last such edition by model. Raises ``Unavailable`` for a link that leads out
    of it.
    """
    if plan.spec.path is not None:
        try:
            links.check_links(plan.spec.path)
        except links.OutsideLinkError as error:
            raise Unavailable(f"{plan.spec.name} cannot be served: {error.detail}") from None
        edition = local.edition_of(plan.spec.path) if plan.edition else ""
        if edition not in {plan.edition, logged.get(plan.spec.name)}:
            logged[plan.spec.name] = edition
            # Other files in the folder of a single file may be its weights, or unrelated.
            whole = plan.spec.path.is_dir()
            log.warning(
                "%s: %s changed since it was registered; pull it again if that belongs to it",
                plan.spec.name,
                "its files" if whole else "something in the folder of its file",
            )
    for part in plan.parts.values():
        _check_files(part, logged)


def placement(plan: ModelPlan, *, confined: bool = False) -> Placement:
    """Return the process placement of a model: the preloads and variables of it and its parts."""
    every = plan.with_parts
    preload = dict.fromkeys(name for each in every for name in each.backend.preload)
    environment = dict(pair for each in reversed(every) for pair in each.backend.environment)
    return Placement(plan.owner, tuple(preload), tuple(environment.items()), confined)
