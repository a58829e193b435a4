"""Evidence that grows: how sure each further look at it must be, so that looking again is no way to a wrong answer.

Whoever times again until the answer pleases takes the best of several looks. Look k at the evidence of all attempts may
therefore be wrong in ``ERROR / (k (k + 1))`` only: these shares add up to ``ERROR`` over all looks anybody will ever
take. The first look has half of it, 0.025 a bound, which is the two-sided 95 % interval of an ordinary run.

Source: K. K. G. Lan and D. L. DeMets 1983, Discrete sequential boundaries for clinical trials, Biometrika 70: the error
is spent look by look. The shares are added up as if the looks had nothing in common (Boole's inequality), which is on
the safe side: they share most of their evidence.
"""

from __future__ import annotations

ERROR = 0.05  # of one bound, over all looks: a rule's own confidence of 0.95


def error_of(look: int) -> float:
    """How often one bound of the interval of the ``look``-th look may be wrong; looks are counted from 1."""
    return ERROR / (look * (look + 1))


def confidence_of(look: int) -> float:
    """Two-sided confidence of the interval that is judged at the ``look``-th look."""
    return 1 - 2 * error_of(look)


def strictness_of(look: int) -> float:
    """By how much less often than the first the ``look``-th look may be wrong: what its p-values are multiplied by.

    A level meant for one look, as the 1 % of false alarms, is so passed by a factor of 2 at most over all looks.
    """
    return error_of(1) / error_of(look)
