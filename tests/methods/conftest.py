"""A tiny suite for methods: a task whose model and data come by dotted path, and a reference trained on it."""

from __future__ import annotations

import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from compression_gate.methods.base import Context, Method
from compression_gate.records.params import Params
from compression_gate.tasks.calling import call
from compression_gate.tasks.task import Task, open_task
from compression_gate.tasks.training import Fitting, fit

torch.set_num_threads(1)
MODULE = "tiny_models_of_method_tests"
TRAINED: dict[str, dict[str, torch.Tensor]] = {}


@dataclass(frozen=True, kw_only=True)
class Tiny:
    """A task, its trained reference, and shorthands."""

    task: Task
    params: Params
    reference: nn.Module
    factory: nn.Module = field(repr=False)

    def context(self, **changes: Any) -> Context:
        return Context(task=self.task, reference=self.reference, train=self.params.train, **changes)

    def apply(self, method: Method, model: nn.Module | None = None, **changes: Any) -> nn.Module:
        return method.apply(model if model is not None else self.reference, self.context(**changes))

    @torch.no_grad()
    def outputs(self, model: nn.Module) -> torch.Tensor:
        return call(model.eval(), self.task.example_inputs(32, "test"))

    @torch.no_grad()
    def accuracy(self, model: nn.Module) -> float:
        (batch,) = self.task.batches("test", 10_000)
        return float((call(model.eval(), batch.inputs).argmax(1) == batch.targets).float().mean())


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """Return a function that opens a suite around one kind of model, trained for a second."""
    shutil.copy(Path(__file__).parent / "tiny_models.py", tmp_path / f"{MODULE}.py")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])

    def suite(kind: str, /, **task: Any) -> Tiny:
        own = {
            "model": f"{MODULE}:build",
            "model_args": {"kind": kind},
            "data": f"{MODULE}:load",
            "data_args": {"kind": kind},
        }
        train = {"epochs": 3, "batch_size": 64, "learning_rate": 0.01, "precision": "float32"}
        params = Params.model_validate({"task": own | task, "train": train})
        opened = open_task(params, tmp_path)
        key = f"{kind} {task}"
        if key not in TRAINED:
            trained = opened.build_model()
            fit(trained, opened, Fitting(options=params.train))
            TRAINED[key] = trained.state_dict()
        reference = opened.build_model()
        reference.load_state_dict(TRAINED[key])
        return Tiny(task=opened, params=params, reference=reference.eval(), factory=opened.build_model())

    return suite
