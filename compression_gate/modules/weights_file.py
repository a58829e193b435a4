"""Weights as safetensors, the same bytes every time: what is tied is stored once, nothing is stored about it."""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor, nn

from compression_gate.records.base import replacing


def save_weights(model: nn.Module, path: Path) -> None:
    """Write the state dict, a tensor of several names under the first of them; ``load_model`` of safetensors reads it.

    ``save_model`` of safetensors is not used: it notes the names it left out in an order that differs from process to
    process, and with it the file's digest.
    """
    state: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in model.state_dict(keep_vars=True).items():
        if id(tensor) not in seen:
            seen.add(id(tensor))
            state[name] = tensor.detach().cpu().contiguous().clone()
    with replacing(path) as temporary:
        save_file(state, str(temporary), metadata={"format": "pt"})
