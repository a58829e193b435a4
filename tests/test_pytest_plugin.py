"""The verdict's checks as tests, in a pytest of their own as a user starts it."""

import os
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from datetime import timedelta

import onnx
import pytest
from finished_run import finished

from compression_gate.records.artifact import Artifact, entries
from compression_gate.records.waivers import today_utc
from compression_gate.stages import compress, gate, prepare, train

__all__ = ["finished"]

ALL = [
    "accuracy",
    "floor",
    "size",
    "rate",
    "speed",
    "f1",
    *(f"classes[class={label}]" for label in range(4)),
    "verdict",
]
ACCURACY = "accuracy: {metric: accuracy, max_drop: 0.01}"
FLOOR = "floor: {metric: accuracy, min: 0.8}"
BROKEN = "accuracy: {metric: accuracy, max_drop: 0.001}"  # 5 of 1,000 are lost
OPEN = "accuracy: {metric: accuracy, max_drop: 0.005}"
WARNED = "floor: {metric: accuracy, min: 0.95, level: warn}"
OWN_TESTS = """\
def test_own():
    pass

def test_verdict_is_at_hand(compression_verdict):
    assert compression_verdict.status == "pass"
    assert [check.rule for check in compression_verdict.checks][:2] == ["accuracy", "floor"]
"""
MODEL_TESTS = """\
import numpy as np
import pytest

def test_models_answer(reference_model, candidate_model):
    batch = np.arange(8, dtype=np.float32).reshape(2, 4)
    for model in (reference_model, candidate_model):
        for inputs in (batch, (batch,), {"input_0": batch}):
            if isinstance(inputs, np.ndarray):
                with pytest.raises(Exception, match="expected inputs input_0"):
                    model(inputs)
            else:
                assert (model(inputs) == -batch).all()
    assert candidate_model.artifact.role == "candidate"
    assert candidate_model.path.name == "model.onnx"

def test_tensors_are_taken(candidate_model):
    class Tensor:
        def detach(self):
            return self
        def cpu(self):
            return np.ones((1, 4), dtype=np.float32)
    assert (candidate_model((Tensor(),)) == -1).all()
"""
CODED_TEST = """\
import numpy as np

def test_it_is_decoded(candidate_model, reference_model):
    assert candidate_model.artifact.shipped == ("model.cgz",)
    assert ".compression_gate/decoded/" in candidate_model.path.as_posix()
    assert candidate_model(np.zeros((2, 1, 8, 8), dtype=np.float32)).shape == (2, 3)
    assert reference_model.path.parent.name == "reference"
"""
MODULES = """\
import sys
import pytest

@pytest.hookimpl(trylast=True)
def pytest_sessionfinish():
    heavy = {"torch", "pydantic", "numpy", "scipy"}  # yaml comes with other plugins
    print("LOADED", sorted(name for name in sys.modules if name in heavy or name.startswith("compression_gate")))
"""


def pytest_in(folder, *options):
    """Run pytest in a folder, with the plugin found by its entry point."""
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-ra", *map(str, options)],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTEST_ADDOPTS": "", "COLUMNS": "200", "CI": ""},
    )


def judged(suite, *changes):
    """Judge a suite whose rules are changed; each change is (old text, new text)."""
    path = suite / "params.yaml"
    text = path.read_text()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    path.write_text(text)
    gate.run(suite)
    return suite


def results(suite, *options):
    """Exit code, and name -> what became of it, read back from a JUnit file."""
    path = suite / "junit.xml"
    path.unlink(missing_ok=True)
    done = pytest_in(suite, "--compression-gate", f"--junitxml={path}", *options)
    cases = ElementTree.parse(path).iter("testcase")
    return done.returncode, {
        case.get("name"): case[0].get("type") or case[0].tag if len(case) else "passed"
        for case in cases
        if case.get("classname") == "compression-gate"
    }


def test_every_check_and_the_verdict_are_items_that_pass(finished):
    done = pytest_in(judged(finished), "--compression-gate", "-v")
    assert done.returncode == 0, done.stdout
    shown = [line.split(" PASSED")[0] for line in done.stdout.splitlines() if " PASSED" in line]
    assert shown == [f"compression-gate::{name}" for name in ALL]


def test_items_are_listed_without_being_run(finished):
    done = pytest_in(judged(finished, (ACCURACY, BROKEN)), "--compression-gate", "--collect-only", "-q")
    assert done.returncode == 0, done.stdout
    assert done.stdout.splitlines()[: len(ALL)] == [f"compression-gate::{name}" for name in ALL]


def test_failure_is_told_by_its_figures_without_a_traceback(finished):
    done = pytest_in(judged(finished, (ACCURACY, BROKEN)), "--compression-gate")
    assert done.returncode == 1
    for text in (
        "fail: change -0.005 against reference, limit max_drop 0.001",
        "  observed   0.895",
        "  reference  0.9",
        "  interval   -0.00",
        "  limit      max_drop 0.001, allowed -0.001, over by 0.004",
        "  n          4,000",
        "fail, exit code 1, policy pull_request\n  accuracy: fail",
        "FAILED compression-gate::accuracy - fail: change -0.005 against reference, limit max_drop 0.001",
    ):
        assert text in done.stdout
    assert "Traceback" not in done.stdout
    assert "pytest_plugin.py" not in done.stdout


def test_items_are_selected_by_name(finished):
    suite = judged(finished, (ACCURACY, BROKEN))
    assert results(suite, "-k", "accuracy") == (1, {"accuracy": "failure"})
    assert results(suite, "-k", "floor") == (0, {"floor": "passed"})
    left = "--deselect=compression-gate::accuracy", "--deselect=compression-gate::verdict"
    assert results(suite, *left) == (0, dict.fromkeys(ALL[1:-1], "passed"))


def test_first_failure_ends_the_session_where_asked(finished):
    assert results(judged(finished, (ACCURACY, BROKEN)), "-x") == (1, {"accuracy": "failure"})


def test_undecided_is_skipped_in_a_pull_request_and_fails_a_release(finished):
    suite = judged(finished, (ACCURACY, OPEN))
    code, found = results(suite)
    assert (code, found["accuracy"], found["verdict"]) == (0, "pytest.skip", "passed")
    code, found = results(suite, "--compression-gate-policy=release")
    assert (code, found["accuracy"], found["verdict"]) == (1, "failure", "failure")


def test_limit_that_only_warns_is_an_expected_failure(finished):
    suite = judged(finished, (FLOOR, WARNED))
    code, found = results(suite)
    assert (code, found["floor"], found["verdict"]) == (0, "pytest.xfail", "passed")
    assert results(suite, "--runxfail", "-k", "floor") == (1, {"floor": "failure"})


def test_waived_check_is_skipped_with_its_waiver(finished):
    today, end = today_utc(), today_utc() + timedelta(days=30)
    (finished / "waivers.yaml").write_text(
        f"- {{rule: accuracy, ceiling: 0.01, reason: new labels, owner: Ana, since: {today}, expires: {end}}}\n"
    )
    suite = judged(finished, (ACCURACY, BROKEN))
    done = pytest_in(suite, "--compression-gate")
    assert done.returncode == 0, done.stdout
    assert f"waived: rule accuracy up to 0.01 until {end} (Ana, 0 days old): new labels" in done.stdout
    code, found = results(suite, "--compression-gate-policy=release")
    assert (code, found["accuracy"], found["verdict"]) == (1, "failure", "failure")


def stale(suite):
    (suite / "models/candidate/model.onnx").write_bytes(b"another")


def edited(suite):
    path = suite / "reports/verdict.json"
    path.write_text(path.read_text().replace('"status": "fail"', '"status": "pass"', 1))


def missing(suite):
    (suite / "reports/verdict.json").unlink()


def truncated(suite):
    path = suite / "reports/verdict.json"
    path.write_text(path.read_text()[:200])


@pytest.mark.parametrize("spoil", [stale, edited, missing, truncated])
def test_verdict_that_cannot_be_believed_leaves_nothing_green(finished, spoil):
    suite = judged(finished, (ACCURACY, BROKEN))
    spoil(suite)
    code, found = results(suite)
    assert code == 1
    assert set(found.values()) == {"failure"}, found
    assert {"floor", "verdict"} <= found.keys()


def test_no_rule_is_silently_green_where_there_is_no_verdict(finished):
    done = pytest_in(finished, "--compression-gate", "-k", "floor")
    assert done.returncode == 1
    assert "no verdict: " in done.stdout
    assert "verdict.json: missing: run the stage that writes it, or `compression-gate run`" in done.stdout


def test_wrong_params_are_an_error_of_collection(finished):
    suite = judged(finished)
    (suite / "params.yaml").write_text("tusk: {}\n")
    done = pytest_in(suite, "--compression-gate", "-k", "floor")
    assert done.returncode == 2
    assert "params.yaml:1: tusk: expected one of" in done.stdout
    assert "Traceback" not in done.stdout


def test_checks_stand_behind_the_users_own_tests_whatever_paths_are_given(finished):
    suite = judged(finished)
    (suite / "tests").mkdir()
    (suite / "tests/test_shop.py").write_text(OWN_TESTS)
    done = pytest_in(suite.parent, f"{suite.name}/tests", f"--compression-gate={suite.name}/reports/verdict.json", "-v")
    assert done.returncode == 0, done.stdout
    shown = [line.split("::")[1].split(" PASSED")[0] for line in done.stdout.splitlines() if " PASSED" in line]
    assert shown == ["test_own", "test_verdict_is_at_hand", *ALL]
    assert f"collected {len(shown)} items" in done.stdout


def test_option_that_swallowed_a_path_is_a_usage_error(finished):
    done = pytest_in(finished, "--compression-gate", "tests")
    assert done.returncode == 4
    assert "expected a suite's reports/verdict.json, got 'tests': write --compression-gate=FILE" in done.stderr


def test_option_may_stand_in_the_configuration_before_any_path(finished):
    suite = judged(finished)
    (suite / "pytest.ini").write_text("[pytest]\naddopts = --compression-gate=reports/verdict.json\n")
    (suite / "test_shop.py").write_text(OWN_TESTS)
    done = pytest_in(suite, "test_shop.py")
    assert done.returncode == 0, done.stdout
    assert f"{2 + len(ALL)} passed" in done.stdout


def test_last_failures_are_known_again(finished):
    suite = judged(finished, (ACCURACY, BROKEN))
    pytest_in(suite, "--compression-gate", "-p", "cacheprovider")
    done = pytest_in(suite, "--compression-gate", "-p", "cacheprovider", "--lf")
    assert "2 failed, 9 deselected" in done.stdout


def test_nothing_is_loaded_or_collected_unless_asked_for(finished):
    suite = judged(finished)
    (suite / "test_shop.py").write_text(OWN_TESTS)
    (suite / "conftest.py").write_text(MODULES)
    done = pytest_in(suite, "-s")
    assert done.returncode == 0, done.stdout
    assert "LOADED ['compression_gate', 'compression_gate.pytest_plugin']" in done.stdout
    assert "1 passed, 1 skipped" in done.stdout
    assert "needs a suite: pytest --compression-gate" in done.stdout


def test_fixture_of_a_stale_verdict_fails_with_what_is_stale(finished):
    suite = judged(finished)
    (suite / "test_shop.py").write_text(OWN_TESTS)
    stale(suite)
    done = pytest_in(suite, "--compression-gate", "-k", "test_verdict_is_at_hand")
    assert done.returncode == 1
    assert "not to be believed:" in done.stdout


def negating_model(folder):
    """Put a real ONNX file into an artifact."""
    shape = ["batch", 4]
    given, answer = (
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape) for name in ("input_0", "output")
    )
    node = onnx.helper.make_node("Neg", ["input_0"], ["output"])
    graph = onnx.helper.make_graph([node], "negate", [given], [answer])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(model, folder / "model.onnx")
    made = Artifact.read(folder / "artifact.json").model_copy(update={"files": entries(folder)})
    made.sealed().write(folder / "artifact.json")


def test_models_are_fixtures_that_answer_a_batch(finished):
    for role in ("reference", "candidate"):
        negating_model(finished / "models" / role)
    (finished / "test_shop.py").write_text(MODEL_TESTS)
    done = pytest_in(finished, "--compression-gate", "--deselect=compression-gate")
    assert done.returncode == 0, done.stdout
    assert "2 passed" in done.stdout


def test_coded_candidate_is_what_comes_out_of_the_file_that_ships(suite):
    suite.edit("compress", {"format": "coded", "steps": [{"method": "magnitude_pruning", "sparsity": 0.7}]})
    for stage in (prepare, train, compress):
        stage.run(suite.path)
    (suite.path / "test_shop.py").write_text(CODED_TEST)
    done = pytest_in(suite.path, "--compression-gate", "--deselect=compression-gate")
    assert done.returncode == 0, done.stdout
    assert "1 passed" in done.stdout


def test_model_that_cannot_be_loaded_fails_its_tests_with_the_reason(finished):
    (finished / "test_shop.py").write_text(MODEL_TESTS)
    done = pytest_in(finished, "--compression-gate", "--deselect=compression-gate", "-k", "tensors")
    assert done.returncode == 1
    assert "candidate_model: " in done.stdout
    assert "cannot be loaded by onnxruntime" in done.stdout


def test_this_very_session_has_the_plugin(pytestconfig):
    """An installation without its entry points would leave the tests above to fail one by one."""
    assert pytestconfig.pluginmanager.hasplugin("compression_gate"), "pip install --no-deps -e ."
