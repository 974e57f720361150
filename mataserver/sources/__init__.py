"""Sources of models: the hub, pip packages, local paths, and those of plugins.

huggingface_hub is never imported into the server: network access runs in a child process
(``fetch``), and the cache on disk is read by its documented layout (``cache``). So do the sources
of plugins (``source_child``), whose models are kept in a folder of the server (``pulled``).
"""

from importlib import import_module
from typing import TYPE_CHECKING

from mataserver.sources.cache import DiskUsage, cached, disk_usage
from mataserver.sources.links import OutsideLinkError, check_links
from mataserver.sources.local import edition_of, read_config, size_of
from mataserver.sources.messages import PipOutput, Progress, QueuePosition, Step
from mataserver.sources.pulled import FOLDER as PULLED
from mataserver.sources.pulled import PulledModels

if TYPE_CHECKING:
    from mataserver.sources.hub import HubUnreachable, download, fetch_config, validate_repo_id
    from mataserver.sources.packages import install, missing, unmet, unsuitable
    from mataserver.sources.plugin_sources import pull, validate_reference
    from mataserver.sources.pulls import Pull, Pulls

__all__ = [
    "PULLED",
    "DiskUsage",
    "HubUnreachable",
    "OutsideLinkError",
    "PipOutput",
    "Progress",
    "Pull",
    "PulledModels",
    "Pulls",
    "QueuePosition",
    "Step",
    "cached",
    "check_links",
    "disk_usage",
    "download",
    "edition_of",
    "fetch_config",
    "install",
    "missing",
    "pull",
    "read_config",
    "size_of",
    "unmet",
    "unsuitable",
    "validate_reference",
    "validate_repo_id",
]

_LATE = {
    **dict.fromkeys(("HubUnreachable", "download", "fetch_config", "validate_repo_id"), "hub"),
    **dict.fromkeys(("install", "missing", "unmet", "unsuitable"), "packages"),
    **dict.fromkeys(("pull", "validate_reference"), "plugin_sources"),
    **dict.fromkeys(("Pull", "Pulls"), "pulls"),
}
"""Where the names are that bring asyncio, which commands on what is here already do without."""


def __getattr__(name: str) -> object:
    if name in _LATE:
        return getattr(import_module(f"{__name__}.{_LATE[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
