"""Whether a recipe can be built and shipped as asked, told before anything is trained."""

from __future__ import annotations

from pathlib import Path

from compression_gate import registry
from compression_gate.artifacts.exporting import CODED
from compression_gate.errors import ParamsError
from compression_gate.methods.chain import steps_of
from compression_gate.methods.ladder import check_target
from compression_gate.records.params import Params
from compression_gate.registry import nearest
from compression_gate.runtimes import RUNTIMES


def check(params: Params, suite: Path) -> None:
    """Build every step's options, load the runtime, and compare the format with what the runtime writes.

    Raises:
        ParamsError: an unknown method, option or runtime, an impossible value, an order that makes no sense, a format
            the runtime does not write.
        MissingDependencyError: the runtime's library is not installed.
    """
    steps_of(params, suite)
    check_target(params)
    runtime = registry.load("runtimes", params.compress.runtime, RUNTIMES)
    own = Path(runtime.file_name).suffix.removeprefix(".")
    wanted = params.compress.format
    if wanted not in (own, CODED):
        raise ParamsError(
            f"params.yaml: compress.format: the runtime {params.compress.runtime!r} ships {own!r} files, got {wanted!r}"
            f"{nearest(wanted, [own, CODED])}: write `format: {own}`, or `format: {CODED}` for the coded file"
        )
