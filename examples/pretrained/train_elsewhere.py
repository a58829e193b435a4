"""Stands for whatever made a user's weights, long ago and without compression-gate: writes ``weights.pt``.

A plain loop over Fashion-MNIST, as a script of one's own would have it. The suite never runs it; `make examples` does,
once, since weights do not belong into a repository.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from clothes import Clothes
from torch.nn import functional

from compression_gate.tasks.fashion_mnist import load

BATCH_SIZE = 128
LEARNING_RATE = 0.004


def train(epochs: int, count: int | None = None) -> Clothes:
    """Train on the first ``count`` images, or on all."""
    torch.manual_seed(0)
    data = load("train")
    images, labels = (part[:count] for part in (data.pixels, data.labels.long()))
    model = Clothes()
    optimizer = torch.optim.AdamW(model.parameters(), LEARNING_RATE)
    steps = -(-len(images) // BATCH_SIZE) * epochs
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps + 1)
    for epoch in range(epochs):
        for chosen in torch.randperm(len(images)).split(BATCH_SIZE):
            outputs = model(images[chosen].unsqueeze(1).float() / 255)
            loss = functional.cross_entropy(outputs, labels[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        print(f"epoch {epoch + 1} of {epochs}: loss of the last batch {float(loss.detach()):.3f}")
    return model.eval()


def write(path: Path, epochs: int, count: int | None = None) -> None:
    """Train and write a checkpoint as such scripts do: the state dict beside other things."""
    temporary = path.with_suffix(".part")
    torch.save({"state_dict": train(epochs, count).state_dict(), "epochs": epochs}, temporary)
    temporary.replace(path)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Train the model whose weights the suite compresses.")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--again", action="store_true", help="also where weights.pt is there")
    options = parser.parse_args()
    path = Path(__file__).with_name("weights.pt")
    if path.exists() and not options.again:
        print(f"{path.name} is there")
    else:
        write(path, options.epochs)
