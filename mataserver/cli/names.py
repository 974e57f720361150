"""The names of our commands, which no plugin can take."""

from __future__ import annotations

COMMANDS = {
    "serve": "serving:serve",
    "pull": "pulling:pull",
    "list": "registered:list_models",
    "show": "registered:show",
    "rm": "registered:rm",
    "load": "remote:load",
    "stop": "remote:stop",
    "infer": "inferring:infer",
    "ps": "loaded:ps",
    "cluster": "clusters:cluster",
    "plugins": "installed:plugins",
    "check": "checking:check",
    "version": "version:version",
}
"""Our commands: where each is, below this package."""

ALIASES = {"ls": "list", "warmup": "load"}

TAKEN = frozenset({*COMMANDS, *ALIASES})
