"""The settings: their definition, reading and validation, and the stored API key."""

from mataserver.config.reading import (
    DEFAULT_FILE,
    PREFIX,
    STRUCTURED,
    dotenv,
    find,
    load,
    meta_extra,
    plugin_settings,
    read,
    variables,
)
from mataserver.config.settings import (
    Alpha,
    ApiKey,
    CameraSource,
    ConfigError,
    ModelSettings,
    Rate,
    SetBy,
    Settings,
)

__all__ = [
    "DEFAULT_FILE",
    "PREFIX",
    "STRUCTURED",
    "Alpha",
    "ApiKey",
    "CameraSource",
    "ConfigError",
    "ModelSettings",
    "Rate",
    "SetBy",
    "Settings",
    "dotenv",
    "find",
    "load",
    "meta_extra",
    "plugin_settings",
    "read",
    "variables",
]
