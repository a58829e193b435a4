"""`release`: only what passes as a release, and of these very files, gets into an archive."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from archives import unpacked
from click.testing import Result
from finished_run import finished
from typer.testing import CliRunner

from compression_gate.cli import app
from compression_gate.errors import ParamsError, ReleaseError
from compression_gate.records.artifact import Artifact
from compression_gate.records.recipe import Recipe
from compression_gate.records.verdict import Verdict
from compression_gate.release.manifest import MANIFEST, SUMS, Manifest
from compression_gate.stages import gate, release

__all__ = ["finished"]


@pytest.fixture
def judged(finished: Path) -> Path:
    """A suite that passes, under every policy."""
    gate.run(finished)
    return finished


def edit(suite: Path, **rules: dict) -> None:
    path = suite / "params.yaml"
    values = yaml.safe_load(path.read_text())
    values["gate"]["rules"] |= rules
    path.write_text(yaml.safe_dump(values, sort_keys=False))


def test_archive_holds_the_judged_files_and_what_was_judged(judged: Path) -> None:
    path, manifest = release.run(judged, "1.4.0")
    assert path == judged / "releases/suite-1.4.0.tar"
    contents = unpacked(path)
    assert set(contents) == {
        *("model/artifact.json", "model/model.onnx", "recipe.yaml", "params.yaml", "verdict.json"),
        *("report.md", "report.html", "MODEL_CARD.md", MANIFEST, SUMS),
    }
    artifact = Artifact.open(judged / "models/candidate")
    assert hashlib.sha256(contents["model/model.onnx"]).hexdigest() == artifact.files["model.onnx"].sha256
    assert Manifest.model_validate_json(contents[MANIFEST]) == manifest
    assert manifest.candidate_digest == artifact.digest
    assert manifest.files.keys() == contents.keys() - {MANIFEST, SUMS}
    verdict = Verdict.model_validate_json(contents["verdict.json"])
    assert (verdict.status, verdict.policy) == ("pass", "release")


def test_recipe_in_the_archive_is_one_that_params_may_name(judged: Path, tmp_path: Path) -> None:
    path, _ = release.run(judged, "1.4.0")
    (tmp_path / "recipe.yaml").write_bytes(unpacked(path)["recipe.yaml"])
    assert [step.method for step in Recipe.read(tmp_path / "recipe.yaml").steps] == ["structured_pruning"]


def test_same_run_gives_the_same_bytes_in_another_folder_on_another_day(
    judged: Path, tmp_path: Path, monkeypatch
) -> None:
    first, _ = release.run(judged, "1.4.0")
    other = tmp_path / "elsewhere/suite"
    shutil.copytree(judged, other, ignore=shutil.ignore_patterns("releases"))
    for file in other.rglob("*"):
        os.utime(file, (1, 1))
    second, _ = release.run(other, "1.4.0", tmp_path / "b.tar")
    assert first.read_bytes() == second.read_bytes()


@pytest.mark.skipif(not shutil.which("sha256sum"), reason="no sha256sum on PATH")
def test_sums_are_read_by_the_usual_program(judged: Path, tmp_path: Path) -> None:
    path, _ = release.run(judged, "1.4.0")
    shutil.unpack_archive(path, tmp_path / "out")
    done = subprocess.run(
        ["sha256sum", "--check", "--strict", SUMS], cwd=tmp_path / "out/suite-1.4.0", capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_card_tells_the_figures_the_limits_and_the_data(judged: Path) -> None:
    path, _ = release.run(judged, "1.4.0")
    card = unpacked(path)["MODEL_CARD.md"].decode()
    assert card.startswith("# suite 1.4.0\n")
    for words in ("89.50", "≥ 80.00", "structured\\_pruning", "| test | 4,000 |", "a processor", "shop:Net"):
        assert words in card, words


NOT_PASSING = [  # a rule, the exit code, what is said
    ({"metric": "size_bytes", "max": 500}, 1, r"size: fail: Lower size_bytes by 500 bytes"),
    ({"metric": "accuracy", "min": 0.895}, 3, r"size: undecided: The interval"),
]


@pytest.mark.parametrize(("rule", "code", "said"), NOT_PASSING)
def test_verdict_that_does_not_pass_as_a_release_is_refused(judged: Path, rule: dict, code: int, said: str) -> None:
    """The second passes a pull request, which an undecided check does not block."""
    edit(judged, size=rule)
    gate.run(judged)
    with pytest.raises(ReleaseError, match=said) as caught:
        release.run(judged, "1.4.0")
    assert caught.value.exit_code == code
    assert not (judged / "releases").exists()


def test_waiver_that_is_not_for_releases_lets_none_out(judged: Path) -> None:
    edit(judged, size={"metric": "size_bytes", "max": 900})
    waiver = {"rule": "size", "ceiling": 1100, "reason": "soon", "owner": "me", "expires": "2999-01-01"}
    for allowed, since in ((False, "2026-01-01"), (True, "2026-01-01")):
        text = yaml.safe_dump([{**waiver, "since": since, "release": allowed}])
        (judged / "waivers.yaml").write_text(text)
        gate.run(judged)
        if not allowed:
            with pytest.raises(ReleaseError, match="size: waived"):
                release.run(judged, "1.4.0")
    path, _ = release.run(judged, "1.4.0")
    contents = unpacked(path)
    assert b"size" in contents["waivers.yaml"]
    assert "written 2026-01-01" in contents["MODEL_CARD.md"].decode()


TAMPERED = [
    "models/candidate/model.onnx",
    "models/candidate/artifact.json",
    "reports/evaluation.json",
    "reports/benchmark.json",
    "reports/compression.json",
    "reports/predictions.npz",
    "reports/verdict.json",
    "params.yaml",
]


@pytest.mark.parametrize("name", TAMPERED)
@pytest.mark.parametrize("gone", [False, True], ids=["changed", "gone"])
def test_run_whose_files_were_touched_is_refused(judged: Path, name: str, gone: bool) -> None:
    path = judged / name
    if gone:
        path.unlink()
    elif name == "reports/verdict.json":
        verdict = json.loads(path.read_text())
        verdict["checks"][0]["observed"] = 0.99
        verdict["checks"] = verdict["checks"][1:]
        path.write_text(json.dumps(verdict))
    elif name == "params.yaml":
        path.write_text(path.read_text().replace("max: 2000", "max: 2001"))
    else:
        path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises((ReleaseError, ParamsError)):
        release.run(judged, "1.4.0")
    assert not (judged / "releases").exists()


def test_model_that_changes_while_it_is_archived_leaves_no_archive(judged: Path, monkeypatch) -> None:
    model = judged / "models/candidate/model.onnx"
    monkeypatch.setattr(release, "card_of", lambda *_: model.write_bytes(b"another") and "a card")
    with pytest.raises(ReleaseError, match=r"suite-1\.4\.0\.tar: SHA256SUMS: expected .*model/model\.onnx"):
        release.run(judged, "1.4.0")
    assert [*(judged / "releases").iterdir()] == []


def test_folder_in_place_of_the_archive_is_refused(judged: Path) -> None:
    with pytest.raises(ParamsError, match=f"-o: expected a file, got the folder {judged}"):
        release.run(judged, "1.4.0", judged)


def test_file_added_to_the_candidate_is_refused(judged: Path) -> None:
    (judged / "models/candidate/more.bin").write_bytes(b"more")
    with pytest.raises(ReleaseError, match=r"more\.bin"):
        release.run(judged, "1.4.0")


def test_run_of_which_nothing_was_asked_is_refused(finished: Path) -> None:
    path = finished / "params.yaml"
    values = yaml.safe_load(path.read_text())
    values["gate"]["rules"] = {}
    path.write_text(yaml.safe_dump(values, sort_keys=False))
    gate.run(finished)
    with pytest.raises(ReleaseError, match="no rule was judged"):
        release.run(finished, "1.4.0")


@pytest.mark.parametrize("name", ["", "never", "../1.0", "1.0/2", "a" * 120 + "1", "1 0", "-1"])
def test_name_that_is_none_is_refused(judged: Path, name: str) -> None:
    with pytest.raises(ParamsError, match="expected a name"):
        release.run(judged, name)


def called(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def test_command_prints_the_archive_or_the_manifest(judged: Path) -> None:
    done = called("release", "1.4.0", "-C", judged)
    assert done.exit_code == 0
    assert "suite-1.4.0.tar: 8 files" in done.stdout
    assert json.loads(called("release", "1.4.0", "-C", judged, "--json").stdout)["name"] == "1.4.0"
