"""``inspect``: where the bytes of a coded file are."""

from __future__ import annotations

from pathlib import Path

from compression_gate.codec.inspection import inspected
from compression_gate.records.coded import Inspection
from compression_gate.stages.decode import factory_of_suite, head_of


def run(suite: Path, file: Path) -> Inspection:
    """Decode a coded file and say what each tensor takes.

    Raises:
        CodecError: the file is damaged, hostile or of another model.
    """
    return inspected(file, factory_of_suite(suite) if head_of(file).directory is None else None)
