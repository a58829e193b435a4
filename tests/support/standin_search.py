"""The command line, its trials carried out by stand-ins: a search of a few seconds that can be killed like a real one.

python -m standin_search search -C SUITE …
"""

from compression_gate.cli import main
from compression_gate.registry import Plugin
from compression_gate.search.executors import EXECUTORS
from compression_gate.search.executors.local import LocalExecutor

ROW = Plugin(target="standin_search:StandIns", summary="stand-ins on this machine")


class StandIns(LocalExecutor):
    """The local executor with other workers."""

    def __init__(self, place):
        super().__init__(place, worker="standin_trials")


if __name__ == "__main__":
    EXECUTORS["local"] = ROW
    main()
