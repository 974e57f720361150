"""Former name of ``mataserver_client``, now a distribution of its own."""

from __future__ import annotations

import warnings

from mataserver_client import *  # noqa: F403 - every name of it
from mataserver_client import __all__  # noqa: F401 - keeps star imports from here complete

warnings.warn("mataserver.client is called mataserver_client now", DeprecationWarning, stacklevel=2)
