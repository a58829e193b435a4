"""Statistics of batch norms, taken anew after weights have changed: what was measured before holds no longer."""

from __future__ import annotations

import copy
import time
from dataclasses import dataclass

import torch
from torch import nn

from compression_gate.tasks.calling import Inputs, call, named
from compression_gate.tasks.task import Task, seeded

BATCH_SIZE = 128
MOST_EXAMPLES = 2048  # of the train split: some thousand examples give means and variances to a few percent


@dataclass(frozen=True, kw_only=True)
class Reestimation:
    """What was done: the norms by name, the examples they saw, and the time it took [s]."""

    norms: tuple[str, ...] = ()
    examples: int = 0
    seconds: float = 0.0


def norms_of(model: nn.Module) -> dict[str, nn.modules.batchnorm._BatchNorm]:
    """Return the norms that keep running statistics, by name."""
    return {
        name: norm
        for name, norm in model.named_modules()
        if isinstance(norm, nn.modules.batchnorm._BatchNorm) and norm.running_mean is not None
    }


@torch.no_grad()
def reestimate(model: nn.Module, task: Task, *, seed: int) -> Reestimation:
    """Take the running means and variances anew, in place, from the first batches of the shuffled train split.

    Norms see each batch as they do in training, everything else is in eval mode, so nothing is dropped out. Without
    such norms no example is read.

    Source: Y. Wu and J. Johnson, Rethinking "Batch" in BatchNorm, 2021, §3 (their precise BatchNorm): the plain mean
        over batches in place of the training's moving one.
    """
    norms = norms_of(model)
    if not norms:
        return Reestimation()
    start, examples = time.monotonic(), 0
    model.eval()
    momenta = {name: norm.momentum for name, norm in norms.items()}
    before = {name: copy.deepcopy(norm.state_dict()) for name, norm in norms.items()}
    for norm in norms.values():
        norm.reset_running_stats()
        norm.momentum = None  # torch's word for the plain mean
        norm.train()
    try:
        with seeded(seed):
            for batch in task.batches("train", BATCH_SIZE, shuffle_seed=seed):
                if count(batch.inputs) < BATCH_SIZE and examples:
                    break  # a short batch would count as much as a full one
                call(model, batch.inputs)
                examples += count(batch.inputs)
                if examples >= MOST_EXAMPLES:
                    break
    finally:
        for name, norm in norms.items():
            norm.momentum = momenta[name]
            called = bool(norm.num_batches_tracked)
            norm.num_batches_tracked = before[name]["num_batches_tracked"]
            if not called:
                norm.load_state_dict(before[name])
            norm.eval()
    return Reestimation(norms=tuple(norms), examples=examples, seconds=time.monotonic() - start)


def count(inputs: Inputs) -> int:
    """Return how many examples a batch holds."""
    return len(next(iter(named(inputs).values())))
