"""Finished steps of a chain whose run was killed: each with its model, under a key of all that it rests on."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

from torch import nn

from compression_gate.errors import CompressionGateError
from compression_gate.modules.structure import load_model, save_model
from compression_gate.records.base import replacing_folder
from compression_gate.records.metrics import StepRecord

log = logging.getLogger("compression_gate")
RECORD = "step.json"


class FinishedSteps:
    """What lies in one folder, a folder a step, until the chain is whole.

    Each is read only if the key is its own, so that no step is taken from another recipe, other data or other code.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def read(self, key: str, factory: nn.Module) -> tuple[nn.Module, StepRecord] | None:
        """The model behind a step, and the step's record; None where it was not finished, or is damaged."""
        folder = self.folder / key
        if not folder.exists():
            return None
        try:
            return load_model(factory, folder).eval(), StepRecord.read(folder / RECORD)
        except CompressionGateError as error:
            log.warning("compress: a step that was finished before cannot be read again (%s): taking it anew", error)
            return None

    def write(self, key: str, model: nn.Module, factory: nn.Module, record: StepRecord) -> None:
        """Keep a finished step, whole or not at all."""
        with replacing_folder(self.folder / key) as folder:
            save_model(model, factory, folder)
            record.write(folder / RECORD)

    def clear(self) -> None:
        """The chain is whole, or begins anew."""
        shutil.rmtree(self.folder, ignore_errors=True)
