"""Statistics of norms behind one step, in a chain, in a member of an ensemble or in a trial of sensitivity alike."""

from __future__ import annotations

import torch
from torch import nn

from compression_gate.measurers.cost import weights_of
from compression_gate.modules.norms import Reestimation, norms_of, reestimate
from compression_gate.tasks.calling import Inputs, call
from compression_gate.tasks.task import Task

ALIKE = 1e-5  # outputs that are no further apart are one model's: what is left is rounding


def renormed(model: nn.Module, before: nn.Module, task: Task, seed: int) -> Reestimation:
    """Take the statistics of the norms anew, in place, if a step changed what they see.

    Not where weights are integers: activation ranges were calibrated with the statistics as they were.
    """
    integers = any(not weight.is_floating_point() for weight in weights_of(model))
    if integers or not norms_of(model):
        return Reestimation()
    if outputs_distance(model, before, task.example_inputs(8)) <= ALIKE:
        return Reestimation()
    return reestimate(model, task, seed=seed)


@torch.no_grad()
def outputs_distance(model: nn.Module, other: nn.Module, inputs: Inputs) -> float:
    """Return the largest difference of two models' outputs, against 1 or the largest output if that is more."""
    expected, got = call(other, inputs), call(model, inputs)
    return float((expected - got).abs().max()) / max(1.0, float(expected.abs().max()))
