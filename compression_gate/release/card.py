"""`MODEL_CARD.md`: what somebody who was handed the model alone must know.

Source: M. Mitchell et al. 2019, Model Cards for Model Reporting, FAT*; of its sections those that were measured.
"""

from __future__ import annotations

from compression_gate.records.artifact import Artifact
from compression_gate.records.metrics import DataRecord
from compression_gate.reporters import record_tables, wording
from compression_gate.reporters.base import Findings
from compression_gate.reporters.markdown import bullets, check_table, code, escaped, section, table

LOADING = {
    "onnxruntime": "onnxruntime.InferenceSession",
    "openvino": "openvino.Core().read_model",
    "torch": "torch.export.load",
}


def card_of(findings: Findings, artifact: Artifact, data: DataRecord | None, name: str) -> str:
    """The card of the released model."""
    verdict = findings.verdict
    parts = [
        f"# {escaped(findings.suite)} {escaped(name)}",
        f"{escaped(wording.headline(findings, verdict.status))} Judged under the policy {code(verdict.policy)}; every "
        "figure is of the files in `model/`, reloaded.",
        *section("Model", bullets(model_lines(findings, artifact))),
        *section("Figures", table(*record_tables.model_table(findings))),
        *section("Limits it was held to", check_table([check for check in verdict.checks if check.slice is None])),
        *section("Weakest parts", bullets(wording.worst_slices(verdict))),
        *section("Live waivers", bullets(wording.waiver_lines(findings))),
        *section("How it was made", table(*record_tables.step_table(findings))),
        *section("Data", table(*data_table(data))),
        *section("Measured on", table(["", "value"], [list(row) for row in verdict.environment.items()], "ll")),
        *section("Again", f"{code(wording.local_command(findings))}"),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def model_lines(findings: Findings, artifact: Artifact) -> list[str]:
    """Which files, how many bytes, from where, opened with what."""
    lines = [
        *(
            f"model/{name}: {artifact.files[name].bytes:,} bytes, sha256 {artifact.files[name].sha256}"
            for name in artifact.shipped
        ),
        f"format {artifact.format}, for {artifact.runtime}",
        f"{artifact.parameters:,} parameters, {artifact.nonzeros:,} not zero, {artifact.macs:,} MACs per example",
        f"architecture: {findings.params.task.model}",
    ]
    if artifact.format == "coded":
        lines.append("opened with: compression-gate decode model/model.cgz, beside the code of the architecture")
    elif artifact.runtime in LOADING:
        lines.append(f"opened with: {LOADING[artifact.runtime]}")
    if artifact.normalize:
        lines.append("it normalizes its inputs itself")
    return lines


def data_table(data: DataRecord | None) -> tuple[list[str], list[list[str]]]:
    """The splits it was trained and judged on."""
    splits = data.splits.items() if data else ()
    rows = [[name, f"{split.n:,}", f"sha256 {split.digest[:16]}…"] for name, split in splits]
    return ["split", "examples", "content"], rows
