"""Several models as one: all see the same input, and their answers are averaged."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from compression_gate.tasks.calling import output_of

Average = Literal["logits", "probabilities"]


class Fused(nn.Module):
    """Call every member on the same input and average what they answer.

    Takes whatever the members take, and returns one tensor of the shape that each of them returns.

    Args:
        members: models of one task, at least one.
        average: ``logits``: the mean of the outputs; where these are logits, the probabilities are then the normalised
            geometric mean of the members'. ``probabilities``: the logarithm of the mean probability, axis 1 being
            the classes.

    Source: G. Hinton, O. Vinyals, J. Dean, Distilling the Knowledge in a Neural Network, 2015, §1, names both means.
    """

    def __init__(self, members: Iterable[nn.Module], average: Average = "logits") -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self.average = average

    def extra_repr(self) -> str:
        """Say how the answers are averaged."""
        return f"average={self.average}"

    def forward(self, *inputs: Tensor, **named: Tensor) -> Tensor:
        """Return the averaged answer ``(N, …)``."""
        answers: list[Any] = [output_of(member(*inputs, **named)) for member in self.members]
        if self.average == "logits":
            return torch.stack(answers).mean(0)
        together = torch.stack([functional.log_softmax(answer, 1) for answer in answers])
        return torch.logsumexp(together, 0) - math.log(len(answers))
