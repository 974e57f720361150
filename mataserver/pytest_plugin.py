"""The pytest plugin, loaded in every project of an environment with mataserver.

The fixtures need pytest-aiohttp, which ``mataserver[testing]`` installs. Without it there are none,
and pytest still starts.
"""

from importlib.util import find_spec

pytest_plugins = () if find_spec("pytest_aiohttp") is None else ("mataserver.testing.fixtures",)
