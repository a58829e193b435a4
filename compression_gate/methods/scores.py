"""What the calibration data say about weights and channels: gradients of the loss, and mean inputs of layers."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from compression_gate.methods.base import Context
from compression_gate.modules.surgery import CONVOLUTIONS
from compression_gate.tasks.calling import call
from compression_gate.tasks.task import seeded

BATCH_SIZE = 128


def gradients(model: nn.Module, context: Context) -> dict[str, Tensor]:
    """Return the gradient of the task's mean loss on the calibration split, in eval mode, by parameter name.

    The model's own gradients are empty afterwards.
    """
    examples = len(context.task.split("calibration"))
    model.zero_grad(set_to_none=True)
    with seeded(context.train.seed):
        for batch in context.task.batches("calibration", BATCH_SIZE):
            loss = context.task.loss(call(model, batch.inputs), batch.targets)
            (loss * len(batch.targets) / examples).backward()
    found = {name: value.grad for name, value in model.named_parameters() if value.grad is not None}
    model.zero_grad(set_to_none=True)
    return found


@torch.no_grad()
def mean_inputs(model: nn.Module, context: Context, types: tuple[type[nn.Module], ...]) -> dict[nn.Module, Tensor]:
    """Return the mean magnitude of each input channel ``(C,)`` of the layers of ``types``, on the calibration split."""
    sums: dict[nn.Module, Tensor] = {}
    counts: dict[nn.Module, int] = {}

    def note(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        values = inputs[0].abs()
        if isinstance(layer, CONVOLUTIONS):
            # Convolutions count channels on axis 1 of (N, C, …), or 0 of (C, …) without a batch.
            spatial = values.dim() - (layer.weight.dim() - 2)
            values = values.movedim(spatial - 1, -1)
        flat = values.reshape(-1, values.shape[-1])
        sums[layer] = sums.get(layer, torch.zeros(flat.shape[1])) + flat.sum(0)
        counts[layer] = counts.get(layer, 0) + len(flat)

    hooks = [module.register_forward_pre_hook(note) for module in model.modules() if isinstance(module, types)]
    try:
        with seeded(context.train.seed):
            for batch in context.task.batches("calibration", BATCH_SIZE):
                call(model, batch.inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return {layer: total / counts[layer] for layer, total in sums.items()}
