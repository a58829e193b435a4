"""`report`: where in `params.yaml` each rule's limit stands."""

from __future__ import annotations

from compression_gate.records.params import read_params
from compression_gate.stages.report import lines_of_rules

TEXT = """\
task: {model: a:b, data: a:c}
gate:
  max_accuracy_drop: 0.01
  max_latency_increase: "5%"
  rules:
    size: {metric: size_bytes, max: 400000}
"""


def test_a_rule_of_either_form_has_the_line_of_its_limit(tmp_path):
    (tmp_path / "params.yaml").write_text(TEXT)
    assert lines_of_rules(tmp_path, read_params(tmp_path)) == {"size": 6, "accuracy": 3, "latency": 4}


def test_rules_that_are_nowhere_written_have_the_first_line(tmp_path):
    (tmp_path / "params.yaml").write_text(TEXT.splitlines()[0])
    assert set(lines_of_rules(tmp_path, read_params(tmp_path)).values()) == {1}
