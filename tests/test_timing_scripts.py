"""The scripts behind the figures of docs/timing.md: what they hand to a rule, and what they put into a model."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
if not (ROOT / "benchmarks").is_dir():
    pytest.skip("the scripts are in the repository only", allow_module_level=True)
onnx = pytest.importorskip("onnx")
reference = pytest.importorskip("onnx.reference")
TURNS, PAIRS, CALL_S = 4, 200, 5e-4


def script(name: str) -> ModuleType:
    """A benchmark's module."""
    spec = importlib.util.spec_from_file_location(f"benchmark_{name}", ROOT / "benchmarks" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


habits, ideas, default_task = (script(name) for name in ("timing_habits", "timing_ideas", "timing_default_task"))


def trial(ratio: float, drift: float = 1.0, status: str = "pass"):
    """Calls of 0.5 ms times ``drift`` with noise of 1 %; the candidate's take ``ratio`` as long."""
    noise = np.random.default_rng(0)
    wall = [CALL_S * drift * np.array([[1.0], [ratio]]) * noise.normal(1, 0.01, size=(2, PAIRS)) for _ in range(TURNS)]
    return habits.Trial(
        sampled=habits.Sampled(turns=[habits.Turn(cpu=each, wall=each) for each in wall]), status=status
    )


# What changed between two runs, and which rules alarm at it, in the order of the table.
RUNS = [
    (trial(1.0), [0, 0, 0, 0, 0]),
    (trial(1.0, drift=1.3), [1, 1, 0, 0, 0]),
    (trial(1.08, status="fail"), [1, 1, 0, 0, 1]),
    (trial(1.3, status="fail"), [1, 1, 0, 1, 1]),
    (trial(2.3, status="fail"), [1, 1, 1, 1, 1]),
    (trial(1.0, status="untrusted"), [0, 0, 0, 0, 0]),
]


@pytest.mark.parametrize(("now", "alarms"), RUNS)
def test_a_habit_alarms_at_what_its_tool_would(now, alarms) -> None:
    """A machine that got slower alarms those that compare with a stored figure, and nobody else."""
    assert [int(rule(trial(1.0), now)) for rule in habits.HABITS.values()] == alarms


def test_the_rule_of_rounds_sees_processes_that_take_turns() -> None:
    turns = trial(1.0).sampled.turns
    assert len(habits.samples(turns[0::2], 0)) == habits.ROUNDS * habits.SAMPLES
    assert habits.samples(turns[:1], 1)[0] == pytest.approx(turns[0].wall[1][:20].mean())


@pytest.mark.parametrize("module", [habits, ideas])
def test_a_new_row_takes_the_place_of_its_predecessor_only(module) -> None:
    key = {"runtime": "torch", "size": "small", "busy_processes": 2}
    rows = [{**key, "n": 1}, {**key, "size": "large", "n": 2}]
    assert sorted(row["n"] for row in module.merged(rows, {**key, "n": 3})) == [2, 3]


def test_interrupted_pairs_count_alike_in_the_idea_without_them() -> None:
    """A block of three pairs, of which two were interrupted and came out slower."""
    cpu = np.array([[1e-3, 1e-3, 1e-3], [1e-3, 1.2e-3, 1.2e-3]])
    wall = cpu + np.array([0, 1e-3, 1e-3])
    turn = ideas.Turn(cpu=cpu, wall=wall)
    assert turn.blocks == pytest.approx([0.0])
    assert ideas.of_all_pairs(turn) == pytest.approx(np.log(1.2))
    assert turn.blocks == pytest.approx([0.0])


@pytest.mark.parametrize("operation", default_task.OPERATIONS, ids=lambda operation: operation.name)
def test_a_model_gets_one_node_more(operation, tmp_path: Path) -> None:
    """Between what was there and who reads it, constants beside it; the file's own name stays its output's."""
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    nodes = [
        helper.make_node("Div", ["input", "scale"], ["div"]),
        helper.make_node("Flatten", ["div"], ["output"]),
    ]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "tiny",
        [value("input", kind, [1, 1, 28, 28])],
        [value("output", kind, [1, 784])],
        [onnx.numpy_helper.from_array(np.float32(2.0), "scale")],
    )
    path = tmp_path / "model.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    more = onnx.load(default_task.with_one_more(path, operation, tmp_path))
    assert [node.op_type for node in more.graph.node if node.op_type not in ("Div", "Flatten")] == [operation.kind]
    assert len(more.graph.node) == len(nodes) + 1
    assert [output.name for output in more.graph.output] == ["output"]
    given = {"input": np.random.default_rng(0).random((1, 1, 28, 28), np.float32)}
    one, other = (reference.ReferenceEvaluator(each).run(None, given)[0] for each in (onnx.load(path), more))
    np.testing.assert_array_equal(one, other)
