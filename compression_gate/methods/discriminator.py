"""A small network that tells the teacher's answers from the student's, which the student learns to deceive."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from compression_gate.methods.features import flat
from compression_gate.tasks.task import seed_everything
from compression_gate.tasks.training import Epoch

WIDTH = 64
BETAS = (0.5, 0.999)  # Radford et al. 2016, §3: less momentum keeps the two players from swinging
SMALLEST_DEVIATION = 1e-6


class Adversary:
    """One discriminator for each place that is looked at, its optimizer, and its losses so far.

    Calling it trains the discriminators on one batch and returns the student's loss. The state goes into the
    checkpoint of the student's training.

    Source: I. Goodfellow et al., Generative Adversarial Nets, NIPS 2014, §3, the student's loss being the one that does
        not saturate. As a loss of distillation: Z. Xu, Y.-C. Hsu, J. Huang, Learning Loss for Knowledge Distillation
        with Conditional Adversarial Networks, 2017; their discriminator also predicts the label, which here the task's
        own loss is for.
    """

    def __init__(self, channels: Sequence[int], *, learning_rate: float, seed: int, device: torch.device) -> None:
        seed_everything(seed)
        self.nets = nn.ModuleList(discriminator(count) for count in channels).to(device)
        self.optimizer = torch.optim.Adam(self.nets.parameters(), lr=learning_rate, betas=BETAS)
        self.scales: list[tuple[float, float]] = []
        self.losses: list[float] = []

    def __call__(self, student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
        """Return the student's loss, a scalar.

        Args:
            student, teacher: for each place, values ``(N, C, …)``; averaged over all axes but examples and channels.
        """
        self.scales = self.scales or [scale(values) for values in teacher]
        own, others = self.scaled(student), self.scaled(teacher)
        self.learn([values.detach() for values in own], others)
        self.nets.requires_grad_(False)
        return torch.stack([believed(net(values), 1.0) for net, values in zip(self.nets, own, strict=True)]).mean()

    def scaled(self, values: Sequence[Tensor]) -> list[Tensor]:
        """Return ``(N, C)`` for each place, in the scale of what the teacher gave first."""
        return [(flat(one) - mean) / deviation for one, (mean, deviation) in zip(values, self.scales, strict=True)]

    def learn(self, own: Sequence[Tensor], others: Sequence[Tensor]) -> None:
        """Train the discriminators by one step: the teacher's are real, the student's are not."""
        self.nets.requires_grad_(True)
        losses = [
            (believed(net(real), 1.0) + believed(net(false), 0.0)) / 2
            for net, real, false in zip(self.nets, others, own, strict=True)
        ]
        loss = torch.stack(losses).mean()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        self.losses.append(float(loss.detach()))

    def curve(self, batches_an_epoch: int) -> list[Epoch]:
        """Return the mean loss of each epoch: ln 2 where teacher and student cannot be told apart."""
        epochs = [
            self.losses[start : start + batches_an_epoch] for start in range(0, len(self.losses), batches_an_epoch)
        ]
        return [
            Epoch(
                epoch=number,
                loss=sum(losses) / len(losses),
                validation_loss=float("nan"),
                validation_quality=None,
                seconds=0.0,
            )
            for number, losses in enumerate(epochs, 1)
        ]

    def state_dict(self) -> dict[str, Any]:
        """Return what the next epoch starts from."""
        return {
            "nets": self.nets.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scales": [list(pair) for pair in self.scales],
            "losses": list(self.losses),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from there."""
        self.nets.load_state_dict(state["nets"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scales = [(mean, deviation) for mean, deviation in state["scales"]]
        self.losses = list(state["losses"])


def discriminator(channels: int) -> nn.Sequential:
    """Build a net from values ``(N, C)`` to the log-odds ``(N, 1)`` that they are the teacher's."""
    return nn.Sequential(
        nn.Linear(channels, WIDTH), nn.LeakyReLU(0.2), nn.Linear(WIDTH, WIDTH), nn.LeakyReLU(0.2), nn.Linear(WIDTH, 1)
    )


def scale(values: Tensor) -> tuple[float, float]:
    """Return mean and deviation over a batch and all channels, so that values of any size are told apart alike.

    One for all channels: a channel that is the same for a whole batch would be blown up by a deviation of its own.
    """
    values = flat(values)
    deviation = float(values.std(unbiased=False))
    return float(values.mean()), deviation if deviation > SMALLEST_DEVIATION else 1.0


def believed(log_odds: Tensor, truth: float) -> Tensor:
    """Return the cross-entropy of the discriminator's belief."""
    return functional.binary_cross_entropy_with_logits(log_odds, torch.full_like(log_odds, truth))
