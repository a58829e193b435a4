"""Finished parts of a run that was killed: each a model and a record, under a key of all that it rests on."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Generic, TypeVar

from torch import nn

from compression_gate.errors import CompressionGateError
from compression_gate.modules.saved_model import load_model, save_model
from compression_gate.records.base import Record, replacing_folder
from compression_gate.records.metrics import StepRecord

log = logging.getLogger("compression_gate")
RECORD = "step.json"
FROZEN = "frozen.json"
R = TypeVar("R", bound=Record)


class Frozen(Record):
    """The parameters that no training may move, which ``structure.json`` does not say: finished models need it not."""

    names: tuple[str, ...]


class FinishedParts(Generic[R]):
    """What lies in one folder, a folder a part, until the whole is done.

    Each is read only if the key is its own, so that no part is taken from another recipe, other data or other code.

    Args:
        kind: of the record beside each model.
        what: a part is, for the log.
    """

    def __init__(self, folder: Path, kind: type[R], what: str) -> None:
        self.folder, self.kind, self.what = folder, kind, what

    def read(self, key: str, factory: nn.Module) -> tuple[nn.Module, R] | None:
        """The model of a part, and its record; None where it was not finished, or is damaged."""
        folder = self.folder / key
        if not folder.exists():
            return None
        try:
            model, frozen = load_model(factory, folder).eval(), Frozen.read(folder / FROZEN).names
            for name, weight in model.named_parameters():
                weight.requires_grad_(name not in frozen)
            return model, self.kind.read(folder / RECORD)
        except (CompressionGateError, OSError) as error:  # another process may have made room meanwhile
            log.warning("%s that was finished before cannot be read again (%s): taking it anew", self.what, error)
            return None

    def write(self, key: str, model: nn.Module, factory: nn.Module, record: R) -> None:
        """Keep a finished part, whole or not at all."""
        with replacing_folder(self.folder / key) as folder:
            save_model(model, factory, folder)
            frozen = tuple(name for name, weight in model.named_parameters() if not weight.requires_grad)
            Frozen(names=frozen).write(folder / FROZEN)
            record.write(folder / RECORD)

    def clear(self) -> None:
        """The whole is done, or begins anew."""
        shutil.rmtree(self.folder, ignore_errors=True)


class FinishedSteps(FinishedParts[StepRecord]):
    """The steps of a chain."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, StepRecord, "compress: a step")
