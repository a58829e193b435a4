"""The discriminator learns to tell two kinds of answers apart, and its loss draws the student to the teacher."""

from __future__ import annotations

import math

import pytest
import torch

from compression_gate.methods.discriminator import Adversary

CPU = torch.device("cpu")


def adversary(channels=(4,), seed=0):
    return Adversary(list(channels), learning_rate=0.01, seed=seed, device=CPU)


def batches(shift, seed=0, count=200):
    random = torch.Generator().manual_seed(seed)
    for _ in range(count):
        yield torch.randn(32, 4, generator=random) + shift


def test_answers_that_differ_are_told_apart():
    one = adversary()
    for own, other in zip(batches(3.0), batches(0.0, seed=1), strict=True):
        one([own], [other])
    assert one.curve(100)[-1].loss < 0.1


def test_equal_answers_cannot_be_told_apart():
    one = adversary()
    for own, other in zip(batches(0.0), batches(0.0, seed=1), strict=True):
        one([own], [other])
    assert one.curve(200)[0].loss == pytest.approx(math.log(2), abs=0.1)


def test_the_students_loss_moves_it_towards_the_teacher():
    """A student that is a shift alone loses it."""
    one, shift = adversary(), torch.full((4,), 2.0, requires_grad=True)
    optimizer = torch.optim.Adam([shift], lr=0.02)
    for own, other in zip(batches(0.0, count=600), batches(0.0, seed=1, count=600), strict=True):
        loss = one([own + shift], [other])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert float(shift.detach().abs().max()) < 1


def test_the_students_loss_leaves_no_gradient_in_the_discriminator():
    one, own = adversary(), torch.randn(8, 4, requires_grad=True)
    before = [value.clone() for value in one.nets.parameters()]
    one([own], [torch.randn(8, 4)]).backward()
    assert own.grad is not None
    assert not all(torch.equal(old, new) for old, new in zip(before, one.nets.parameters(), strict=True))
    assert not any(value.requires_grad for value in one.nets.parameters())


def test_its_state_is_all_that_the_next_batch_follows_from():
    whole, half = adversary(), adversary()
    pairs = list(zip(batches(1.0, count=6), batches(0.0, seed=1, count=6), strict=True))
    for own, other in pairs:
        last = whole([own], [other])
    for own, other in pairs[:3]:
        half([own], [other])
    again = adversary(seed=5)
    again.load_state_dict(half.state_dict())
    for own, other in pairs[3:]:
        continued = again([own], [other])
    assert torch.equal(last, continued)
    assert again.losses == whole.losses


def test_features_in_space_are_averaged_and_each_place_has_a_net_of_its_own():
    one = adversary((4, 6))
    loss = one([torch.randn(8, 4, 3, 3), torch.randn(8, 6)], [torch.randn(8, 4, 3, 3), torch.randn(8, 6)])
    assert loss.shape == ()
    assert len(one.nets) == 2


def test_a_channel_that_never_moves_and_a_batch_of_one_stay_in_scale():
    one = adversary()
    still = torch.zeros(32, 4)
    assert torch.isfinite(one([still + 0.1], [still]))
    assert one.scales == [(0.0, 1.0)]
    other = adversary()
    other([torch.randn(1, 4)], [torch.tensor([[0.0, 2.0, 0.0, 2.0]])])
    assert other.scales == [(1.0, 1.0)]
