"""What is lost and saved when one layer alone is compressed: by this table budgets are spread and chains are chosen."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from compression_gate.records.base import Record


class Sensitivity(Record):
    """One layer, treated by one method at one strength, everything else as it was.

    Args:
        layer: the name under which the row stands.
        members: the layers that were treated: those that share weights with it, or can only change with it.
        option: the method's option that ``strength`` was given to.
        loss_rise: of the task's mean loss; None where the task has none.
        quality_drop: of the table's ``metric``, positive where it got worse.
        outputs_moved: mean over examples of the squared distance between outputs, over the mean squared output.
        bytes_saved: of the weights, as files hold them: integers of 8, 4 or 2 bits, zeros at full price.
        coded_bytes: of the treated layers afterwards, in the coded file; None where nobody asked the coder.
        nonzeros_saved, macs_saved: weights that are not zero, and multiply-accumulates per example.
        reason: why there are no figures: what the method said of the layer.
    """

    layer: str
    members: tuple[str, ...]
    method: str
    option: str
    strength: int | float
    loss_rise: float | None = None
    quality_drop: float | None = None
    outputs_moved: float | None = None
    bytes_saved: int = 0
    coded_bytes: int | None = None
    nonzeros_saved: int = 0
    macs_saved: int = 0
    reason: str | None = None


class SensitivityTable(Record):
    """`reports/sensitivity.json`, and each column of it under `.compression_gate/sensitivity/`.

    Args:
        weights_digest: of the model that was looked at.
        artifact_digest: of the reference whose model that is; None for the model inside of a chain.
        n: examples of the validation split that were asked.
        metric: what ``quality`` is; custom tasks name their own.
        loss, quality: of the model as it was.
        seconds: that measuring took.
    """

    schema_number: Literal[1] = Field(1, alias="schema")
    weights_digest: str
    artifact_digest: str | None = None
    n: int = Field(ge=1)
    metric: str
    loss: float | None
    quality: float | None
    rows: tuple[Sensitivity, ...]
    seconds: float = Field(ge=0)

    def of(self, method: str) -> dict[str, tuple[Sensitivity, ...]]:
        """The rows of one method that have figures, by layer, in order of strength."""
        layers: dict[str, list[Sensitivity]] = {}
        for row in sorted(self.rows, key=lambda row: row.strength):
            if row.method == method and row.reason is None:
                layers.setdefault(row.layer, []).append(row)
        order = dict.fromkeys(row.layer for row in self.rows)
        return {layer: tuple(layers[layer]) for layer in order if layer in layers}
