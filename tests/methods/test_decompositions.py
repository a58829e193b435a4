"""Factors: exact where nothing is cut off, best where it can be known, and what each rank costs in norm."""

from __future__ import annotations

import pytest
import torch

from compression_gate.methods.decompositions import canonical, leading, rank_for, square_root, tails, tucker, unfolded

RANDOM = torch.Generator().manual_seed(3)
KERNEL = torch.randn(6, 5, 9, generator=RANDOM, dtype=torch.double)


def error(kernel, outer, core, inner):
    return float((kernel - torch.einsum("oa,abk,ib->oik", outer, core, inner)).square().sum())


def test_tucker_of_full_ranks_is_the_kernel():
    assert error(KERNEL, *tucker(KERNEL, 6, 5)) == pytest.approx(0, abs=1e-20)


@pytest.mark.parametrize(("outer", "inner"), [(3, 5), (6, 2), (3, 2), (1, 1)])
def test_tucker_is_no_worse_than_the_sum_of_tails_and_no_better_than_the_larger(outer, inner):
    total = float(KERNEL.square().sum())
    cut = [float(tails(leading(unfolded(KERNEL, mode))[0])[rank]) * total for mode, rank in ((0, outer), (1, inner))]
    assert max(cut) - 1e-9 <= error(KERNEL, *tucker(KERNEL, outer, inner)) <= sum(cut) + 1e-9


def test_canonical_finds_a_kernel_that_has_that_rank():
    parts = [torch.randn(size, 3, generator=RANDOM, dtype=torch.double) for size in (6, 5, 9)]
    kernel = torch.einsum("or,ir,kr->oik", *parts)
    outer, inner, taps = canonical(kernel, 3, torch.Generator().manual_seed(0))
    missing = float((kernel - torch.einsum("or,ir,kr->oik", outer, inner, taps)).square().sum())
    assert missing < 1e-3 * float(kernel.square().sum())
    assert torch.allclose(outer.norm(dim=0), taps.norm(dim=0))


def test_canonical_gets_closer_with_the_rank():
    missing = []
    for rank in (1, 4, 12):
        factors = canonical(KERNEL, rank, torch.Generator().manual_seed(0))
        missing.append(float((KERNEL - torch.einsum("or,ir,kr->oik", *factors)).square().sum()))
    assert missing == sorted(missing, reverse=True)


def test_leading_are_the_singular_values_of_the_unfolding():
    values, vectors = leading(unfolded(KERNEL, 1))
    expected = torch.linalg.svdvals(KERNEL.transpose(0, 1).flatten(1)).square()
    assert torch.allclose(values, expected)
    assert torch.allclose(vectors.T @ vectors, torch.eye(5, dtype=torch.double))


def test_the_root_squares_to_the_moments_and_its_inverse_undoes_it():
    data = torch.randn(40, 5, generator=RANDOM, dtype=torch.double)
    moments = data.T @ data / 40
    root, inverse = square_root(moments)
    assert torch.allclose(root @ root, moments)
    assert torch.allclose(root @ inverse, torch.eye(5, dtype=torch.double))


SPECTRUM = torch.tensor([6.0, 3.0, 1.0], dtype=torch.double)
RANKS = [(0.5, 1), (0.6, 1), (0.61, 2), (0.9, 2), (0.95, 3), (1e-6, 1)]


@pytest.mark.parametrize(("energy", "rank"), RANKS)
def test_the_rank_is_the_smallest_that_keeps_the_energy(energy, rank):
    assert rank_for(SPECTRUM, energy) == rank


def test_tails_say_what_each_rank_cuts_off():
    assert tails(SPECTRUM).tolist() == pytest.approx([1.0, 0.4, 0.1, 0.0])
