"""``python -m mataserver``."""

from mataserver.cli import main

main()
