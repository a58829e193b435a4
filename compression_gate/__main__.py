"""``python -m compression_gate``: the same as the console script."""

from compression_gate.cli import main

main()
