"""What plugins bring to each other: names of which two cannot be had, told before any service is.

A kind of jobs is one: which plugin's function would run it?
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mataserver.plugins.admission import PluginError
from mataserver.plugins.intake import refuse

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mataserver.plugins.offer import Plugin


def settle(plugins: Iterable[Plugin]) -> None:
    """Put each plugin out of use that brings what another one has brought to the same plugin.

    Whose names they are comes first, then the others in their order; what came while the server
    runs is last.
    """
    owners: dict[tuple[str, str], str] = {}
    usable = [plugin for plugin in plugins if plugin.error is None]
    for plugin in sorted(usable, key=lambda each: (each.late, each.name not in each.brings)):
        names = [(to, name) for to, given in plugin.brings.items() for name in given]
        taken = next((each for each in names if each in owners), None)
        if taken is None:
            owners.update(dict.fromkeys(names, plugin.name))
        else:
            to, name = taken
            refuse(plugin, PluginError(f"{name!r} is brought to {to} by {owners[taken]} already"))
