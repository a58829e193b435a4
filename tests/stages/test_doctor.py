"""`doctor` names what is missing and the line that mends it."""

import importlib.metadata
import subprocess

import pytest

from compression_gate.stages import doctor


def findings(suite):
    return {finding.name: finding for finding in doctor.findings(suite.path)}


def test_whole_suite_is_fine(suite):
    found = findings(suite)
    assert [name for name, finding in found.items() if finding.needed and not finding.fine] == []
    assert found["params.yaml"].found == "2 steps, 2 rules"


def test_everything_that_is_not_fine_has_a_line_that_mends_it(suite):
    suite.write("task: 5\n")
    assert all(finding.mend for finding in findings(suite).values() if not finding.fine)


def test_wrong_params_are_told_with_every_problem(suite):
    suite.edit("train", {"epocs": 3, "seed": "x"})
    finding = findings(suite)["params.yaml"]
    assert (finding.fine, finding.needed) == (False, True)
    assert "epochs" in finding.found
    assert "seed" in finding.found


def test_undeclared_source_names_the_command(suite):
    (suite.path / "layers.py").write_text("")
    suite.append("\n\nimport layers\n")
    finding = findings(suite)["dvc.yaml"]
    assert not finding.fine
    assert "layers.py" in finding.found
    assert finding.mend == "compression-gate init --refresh"


@pytest.fixture
def uninstall(monkeypatch):
    """Make a library look as if it were not there."""
    version = importlib.metadata.version

    def without(library):
        def answer(name):
            if name == library:
                raise importlib.metadata.PackageNotFoundError(name)
            return version(name)

        monkeypatch.setattr(importlib.metadata, "version", answer)

    return without


def test_library_that_is_not_installed_is_told_with_its_line(suite, uninstall):
    uninstall("onnx")
    finding = findings(suite)["onnx"]
    assert (finding.fine, finding.needed, finding.found, finding.mend) == (
        False,
        True,
        "not installed",
        "pip install onnx",
    )


@pytest.mark.parametrize("chosen", [True, False])
def test_a_runtime_that_is_not_installed_is_needed_by_suites_that_ship_to_it(suite, uninstall, chosen):
    uninstall("openvino")
    if chosen:
        suite.edit("compress", {"runtime": "openvino"})
    finding = findings(suite)["runtime openvino"]
    assert (finding.fine, finding.needed) == (False, chosen)
    assert finding.mend == "pip install 'compression-gate[openvino]'"


def test_missing_git_and_remote_do_not_fail(suite):
    found = findings(suite)
    assert not found["git checkout"].fine
    assert not found["git checkout"].needed
    assert not found["DVC remote"].needed
    subprocess.run(["git", "init", "-q", str(suite.path)], check=True)
    assert findings(suite)["git checkout"].fine
