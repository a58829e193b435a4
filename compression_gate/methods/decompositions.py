"""Kernels as products of thinner ones: Tucker in two modes, CP, and the spectra that ranks go by.

A weight or kernel is ``(O, I, K)``: output channels, input channels, places of the kernel (1 for a linear layer).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

HOOI_ROUNDS = 20
ALS_ROUNDS = 200
SETTLED = 1e-6  # of the squared norm: a round that gains less is the last one
RIDGE = 1e-9  # of the mean diagonal: keeps CP's normal equations solvable where two components come to be one
MODES = (("oik,ir,kr->or", 1, 2), ("oik,or,kr->ir", 0, 2), ("oik,or,ir->kr", 0, 1))  # of CP: a mode from two others


def square_root(moments: Tensor) -> tuple[Tensor, Tensor]:
    """Return the symmetric square root ``(I, I)`` of positive second moments ``(I, I)``, and its inverse.

    The squared norm of a weight times this root is the layer's mean squared output: what is then cut off is measured
    where it counts.

    Source: X. Wang et al., SVD-LLM, ICLR 2025, §3.1 (theirs is the Cholesky factor, with the same product).
    """
    values, vectors = torch.linalg.eigh(moments)
    roots = values.sqrt()
    return vectors * roots @ vectors.T, vectors / roots @ vectors.T


def tails(squares: Tensor) -> Tensor:
    """Return, for each rank 0 … k, the share of the squared singular values ``(k,)`` that it cuts off: ``(k + 1,)``."""
    left = squares.flip(0).cumsum(0).flip(0) / squares.sum().clamp_min(torch.finfo(squares.dtype).tiny)
    return torch.cat([left, left.new_zeros(1)])


def rank_for(squares: Tensor, energy: float) -> int:
    """Return the smallest rank, at least 1, that keeps the share ``energy`` of the squared singular values."""
    # A billionth of slack: shares do not add up to exactly 1 in floating point.
    return max(1, int((tails(squares) > 1 - energy + 1e-9).sum()))


def leading(product: Tensor) -> tuple[Tensor, Tensor]:
    """Return the eigenvalues ``(a,)`` and eigenvectors ``(a, a)`` of ``M Mᵀ``, the largest first.

    They are the squared singular values and left singular vectors of M.
    """
    values, vectors = torch.linalg.eigh(product)
    return values.clamp_min(0).flip(0), vectors.flip(1)


def unfolded(kernel: Tensor, mode: int) -> Tensor:
    """Return the products of the slices of ``(O, I, K)`` along a mode with each other, ``(O, O)`` or ``(I, I)``."""
    matrix = kernel.transpose(0, mode).flatten(1)
    return matrix @ matrix.T


def tucker(kernel: Tensor, outer_rank: int, inner_rank: int) -> tuple[Tensor, Tensor, Tensor]:
    """Decompose ``(O, I, K)`` in its two channel modes; a rank of the mode's size leaves that mode whole.

    Returns:
        Outer ``(O, a)`` and inner ``(I, b)``, each with orthonormal columns, and the core ``(a, b, K)``.

    Source: L. De Lathauwer, B. De Moor, J. Vandewalle, On the Best Rank-1 and Rank-(R1, …, RN) Approximation of
        Higher-Order Tensors, 2000, algorithm 4.2 (HOOI, started from the truncated HOSVD); two modes as in Y.-D. Kim
        et al., Compression of Deep Convolutional Neural Networks, ICLR 2016, §3.1.
    """
    inner = leading(unfolded(kernel, 1))[1][:, :inner_rank]
    before = -1.0
    for _ in range(HOOI_ROUNDS):
        outer = leading(unfolded(torch.einsum("oik,ib->obk", kernel, inner), 0))[1][:, :outer_rank]
        inner = leading(unfolded(torch.einsum("oik,oa->aik", kernel, outer), 1))[1][:, :inner_rank]
        core = torch.einsum("oik,oa,ib->abk", kernel, outer, inner)
        kept = float(core.square().sum())
        if kept - before <= SETTLED * kept:
            break
        before = kept
    return outer, core, inner


def canonical(kernel: Tensor, rank: int, random: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Write ``(O, I, K)`` as a sum of ``rank`` products of one vector a mode (CP), by alternating least squares.

    Returns:
        Outer ``(O, r)``, inner ``(I, r)`` and taps ``(K, r)``; the three columns of a component are equally long.

    Source: T. Kolda and B. Bader, Tensor Decompositions and Applications, SIAM Review 2009, §3.4, figure 3.3.
    """
    factors = [torch.randn(size, rank, generator=random, dtype=kernel.dtype) for size in kernel.shape]
    total, before = float(kernel.square().sum()), math.inf
    for _ in range(ALS_ROUNDS):
        for mode, (equation, first, second) in enumerate(MODES):
            one, other = factors[first], factors[second]
            gram = (one.T @ one) * (other.T @ other)
            gram.diagonal().add_(RIDGE * gram.diagonal().mean())
            factors[mode] = torch.linalg.solve(gram, torch.einsum(equation, kernel, one, other).T).T
        lengths = [factor.norm(dim=0).clamp_min(torch.finfo(kernel.dtype).tiny) for factor in factors]
        shared = (lengths[0] * lengths[1] * lengths[2]) ** (1 / 3)
        factors = [factor / length * shared for factor, length in zip(factors, lengths, strict=True)]
        missing = float((kernel - torch.einsum("or,ir,kr->oik", *factors)).square().sum())
        if before - missing <= SETTLED * total:
            break
        before = missing
    return factors[0], factors[1], factors[2]
