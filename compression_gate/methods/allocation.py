"""A budget spread over layers: one option for each, the least loss together, the cost exactly within the limit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from compression_gate.errors import CompressionError


@dataclass(frozen=True, kw_only=True)
class Choice:
    """One way to treat a layer: what it costs (any unit, the same for all) and what is lost by it."""

    cost: float
    loss: float


def spread(layers: Sequence[Sequence[Choice]], limit: float) -> list[int]:
    """Return, for each layer, the index of its choice: the smallest sum of losses whose sum of costs is in the limit.

    Raises:
        CompressionError: the cheapest choices together cost more.

    Source: H. Kellerer, U. Pferschy, D. Pisinger, Knapsack Problems, 2004, §11.1 (multiple-choice knapsack, here as an
        integer programme).
    """
    from scipy.optimize import LinearConstraint, milp
    from scipy.sparse import block_diag

    cheapest = sum(min(choice.cost for choice in choices) for choices in layers)
    if cheapest > limit:
        raise CompressionError(
            f"expected a limit of at least {cheapest:g}, what the cheapest choices cost, got {limit:g}"
        )
    costs = np.array([choice.cost for choices in layers for choice in choices]) / limit  # near 1, as solvers like it
    losses = np.array([choice.loss for choices in layers for choice in choices])
    one_each = block_diag([np.ones((1, len(choices))) for choices in layers], format="csr")
    found = milp(
        losses,
        integrality=np.ones_like(losses),
        bounds=(0, 1),
        constraints=[LinearConstraint(one_each, 1, 1), LinearConstraint(costs[None], -np.inf, 1)],
        options={"mip_rel_gap": 0},
    )
    if found.x is None:
        raise CompressionError(f"no spread over {len(layers)} layers was found: {found.message}")
    bounds = np.cumsum([len(choices) for choices in layers])[:-1]
    return [int(part.argmax()) for part in np.split(found.x, bounds)]
