"""A keyword classifier: two LSTM layers over feature frames, their mean over time, one linear layer."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

FEATURES = 13


class Classifier(nn.Module):
    """Takes frames ``(N, T, 13)``, padded, and a mask ``(N, T)`` of 1 and 0; returns logits ``(N, classes)``.

    Packed sequences spare training the frames of the padding, and no exporter knows them. The layers run forwards in
    time, so that what stands behind a sequence's end changes nothing before it: with the mask both ways answer alike.
    """

    def __init__(self, classes: int = 10, hidden: int = 128, layers: int = 2) -> None:
        super().__init__()
        self.recurrent = nn.LSTM(FEATURES, hidden, layers, batch_first=True)
        self.head = nn.Linear(hidden, classes)

    def forward(self, frames: Tensor, mask: Tensor) -> Tensor:
        states = self.packed(frames, mask) if self.training else self.recurrent(frames)[0]
        weights = mask.unsqueeze(-1)
        return self.head((states * weights).sum(1) / weights.sum(1))

    def packed(self, frames: Tensor, mask: Tensor) -> Tensor:
        """Run the layers over the frames alone."""
        lengths = mask.sum(1).long().cpu()
        packed = pack_padded_sequence(frames, lengths, batch_first=True, enforce_sorted=False)
        return pad_packed_sequence(self.recurrent(packed)[0], batch_first=True, total_length=frames.shape[1])[0]


def pad(examples: list[tuple[Tensor, int]]) -> tuple[dict[str, Tensor], Tensor]:
    """Join sequences ``(T, 13)`` into one batch, as long as the longest, and the mask that tells what is padding."""
    frames = nn.utils.rnn.pad_sequence([sequence for sequence, _ in examples], batch_first=True)
    lengths = torch.tensor([len(sequence) for sequence, _ in examples])
    mask = (torch.arange(frames.shape[1]) < lengths.unsqueeze(1)).float()
    return {"frames": frames, "mask": mask}, torch.tensor([label for _, label in examples])
