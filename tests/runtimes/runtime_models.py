"""Models in the forms users have: one tensor, several, a dict, an object with logits, free lengths, shared layers."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn


class Images(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 8, 3)
        self.pool, self.last = nn.AdaptiveAvgPool2d(2), nn.Linear(32, 3)

    def forward(self, images):
        maps = torch.relu(self.second(torch.relu(self.first(images))))
        return self.last(self.pool(maps).flatten(1))


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 3, padding=1)
        self.norm, self.last = nn.BatchNorm2d(4), nn.Linear(4, 3)

    def forward(self, images):
        maps = torch.relu(self.first(images))
        maps = torch.relu(maps + self.norm(self.second(maps)))
        return self.last(maps.mean((2, 3)))


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Linear(5, 4), nn.Linear(3, 4)

    def forward(self, left, right):
        return self.left(left) * torch.sigmoid(self.right(right)), "more"


@dataclass
class Output:
    logits: torch.Tensor


class Tokens(nn.Module):
    def __init__(self):
        super().__init__()
        self.table, self.inner, self.last = nn.Embedding(20, 8), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, tokens, mask):
        values = torch.relu(self.inner(torch.relu(self.inner(self.table(tokens)))))
        weights = mask.unsqueeze(-1).float()
        return Output(logits=self.last((values * weights).sum(1) / weights.sum(1)))


class Signal(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Conv1d(2, 4, 3, padding="same"), nn.Linear(4, 3)

    def forward(self, signal):
        return {"logits": self.last(torch.relu(self.first(signal)).amax(2))}


class Patches(nn.Module):
    """A small vision transformer: patches, a class token, places."""

    def __init__(self):
        super().__init__()
        self.patches, self.last = nn.Conv2d(1, 16, 5, 5), nn.Linear(16, 3)
        self.first, self.places = nn.Parameter(torch.randn(1, 1, 16)), nn.Parameter(torch.randn(1, 5, 16))
        layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

    def forward(self, inputs):
        features = self.patches(inputs).flatten(2).transpose(1, 2)
        features = torch.cat([self.first.expand(len(features), -1, -1), features], 1) + self.places
        return self.last(self.encoder(features)[:, 0])


def images(count, size=10):
    return torch.randn(count, 1, size, size)


def tokens(count, length=6):
    return {"tokens": torch.randint(0, 20, (count, length)), "mask": torch.ones(count, length, dtype=torch.int64)}


CASES = {
    "images": (Images, images, {}),
    "residual": (Residual, images, {}),
    "two": (Two, lambda count: (torch.randn(count, 5), torch.randn(count, 3)), {}),
    "tokens": (Tokens, tokens, {"tokens": {1: "time"}, "mask": {1: "time"}}),
    "signal": (Signal, lambda count, length=9: torch.randn(count, 2, length), {"input": {2: "time"}}),
}


class Calibration:
    """A task that has calibration data and nothing else."""

    def __init__(self, make):
        torch.manual_seed(1)
        self.inputs = make(64)

    def batches(self, split, batch_size):
        from compression_gate.tasks.task import Batch

        assert split == "calibration"
        yield Batch(inputs=self.inputs, targets=torch.zeros(64), positions=torch.arange(64))


def quantized(model, make, **options):
    from compression_gate.methods.base import Context
    from compression_gate.methods.static_quantization import StaticQuantization
    from compression_gate.records.params import TrainParams

    context = Context(task=Calibration(make), reference=model, train=TrainParams())
    return StaticQuantization(**options).apply(model, context)
