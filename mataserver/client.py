"""The old name of ``mataserver_client``, the distribution that the client is now."""

from __future__ import annotations

import warnings

from mataserver_client import *  # noqa: F403 - every name of it
from mataserver_client import __all__  # noqa: F401 - so a star takes the same from here

warnings.warn("mataserver.client is called mataserver_client now", DeprecationWarning, stacklevel=2)
