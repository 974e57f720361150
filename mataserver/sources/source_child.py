"""The child of a pull from a plugin's source: it calls the plugin's function.

Nothing of the plugin's runs in the server: what hangs, crashes or leaks here fails this pull only.
"""

from __future__ import annotations

import contextlib
import os
import pkgutil
import shutil
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from mataserver.contract.source import SourceContext
from mataserver.errors import MataError, Unavailable
from mataserver.sources import causes
from mataserver.sources.messages import Fetched, FetchFailure, FetchOrder, Progress
from mataserver.sources.meter import SPARE_BYTES, Meter, NoSpaceError, check_space

if TYPE_CHECKING:
    from collections.abc import Callable

    from mataserver.processes.child_main import Parent
    from mataserver.sources.messages import FetchMessage


class FolderMeter(Meter):
    """Measures what arrives in a folder, and guards the disk's space."""

    def __init__(self, order: FetchOrder, send: Callable[[FetchMessage], None]) -> None:
        super().__init__(self._guarded, send)
        self._folder = Path(order.folder)
        self._model = order.model
        self._send = send
        self._expected = (0, 0)

    def expect(self, total_bytes: int, files: int = 0) -> None:
        """Announce what will arrive. Raises ``NoSpaceError`` if the disk has no room for it."""
        needed = max(0, total_bytes - self.measure().done_bytes)
        check_space(needed, self._folder.parent, self._model)
        self._expected = (int(total_bytes), int(files))

    def measure(self) -> Progress:
        """Return the current progress; a total is 0 until it is announced."""
        sizes = []
        for folder, _, names in os.walk(self._folder):
            for name in names:
                with contextlib.suppress(OSError):  # a file that was just renamed
                    sizes.append(Path(folder, name).lstat().st_size)
        done, files = sum(sizes), len(sizes)
        total, total_files = self._expected
        return Progress(
            done_bytes=done,
            total_bytes=max(done, total) if total else 0,
            done_files=files,
            total_files=max(files, total_files) if total_files else 0,
        )

    def _guarded(self) -> Progress:
        """Return the progress; end this process, with the reason, once the disk is full."""
        if shutil.disk_usage(self._folder.parent).free < SPARE_BYTES:
            self._send(full_disk(self._model))
            os._exit(0)  # the server ends this process anyway
        return self.measure()


def full_disk(model: str) -> FetchFailure:
    """Return the failure of a pull that found the disk full."""
    return FetchFailure("unwritten", f"the disk is full: {model} cannot be stored")


def failure(error: BaseException, order: FetchOrder) -> FetchFailure:
    """Return the failure that an exception means, without paths."""
    errors = list(causes.chain(error))
    for one in errors:
        if isinstance(one, MataError):
            kind = "unreachable" if isinstance(one, Unavailable) else "refused"
            return FetchFailure("unwritten" if isinstance(one, NoSpaceError) else kind, one.detail)  # type: ignore[arg-type]
    if any(causes.is_full_disk(one) for one in errors):
        return full_disk(order.model)
    if any(causes.is_transport(one) for one in errors):
        reason = causes.transport_reason(errors)
        return FetchFailure("unreachable", f"cannot reach the source {order.source}: {reason}")
    return FetchFailure("refused", f"the pull of {order.model} has failed")


def _fetch(order: FetchOrder, meter: FolderMeter) -> FetchMessage:
    try:
        function = pkgutil.resolve_name(order.fetch)
        kind = order.settings_type and pkgutil.resolve_name(order.settings_type)
        settings = None if kind is None else msgspec.json.decode(order.settings, type=kind)
        context = SourceContext(
            order.reference, Path(order.folder), settings, meter.expect, meter.alive
        )
        with meter:
            file = function(context)
        if file is not None and not isinstance(file, str):
            raise TypeError(f"fetch() must return a file's name or None, not {file!r}")  # noqa: TRY301
        return Fetched(file)
    except BaseException as error:  # noqa: BLE001 - a plugin's code, which may call sys.exit()
        if not isinstance(error, MataError):  # whose sentence says all
            traceback.print_exc()
        return failure(error, order)


def run(parent: Parent) -> None:
    """Fetch what the server orders, and exit."""
    for order in parent.messages(FetchOrder):
        parent.send(_fetch(order, FolderMeter(order, parent.send)))
        break
    # Not sys.exit: it would wait for threads that the plugin's function left behind.
    os._exit(0)
