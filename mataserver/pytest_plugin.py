"""What pytest loads in every project of an environment that mataserver is installed in.

The fixtures need pytest-aiohttp, which comes with ``mataserver[testing]``. Without it there are
none, and pytest starts all the same.
"""

from importlib.util import find_spec

pytest_plugins = () if find_spec("pytest_aiohttp") is None else ("mataserver.testing.fixtures",)
