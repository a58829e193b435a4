"""Actions, workflows, templates: what `make lint` cannot know of them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from compression_gate.stages import init

ROOT = Path(__file__).parents[2]
if not (ROOT / "action.yml").is_file():
    pytest.skip("actions and templates are in the repository only", allow_module_level=True)
TEMPLATES = sorted((ROOT / "templates/github").glob("*.yml"))
WORKFLOWS = [*TEMPLATES, *sorted((ROOT / ".github/workflows").glob("*.yml"))]
GITHUB = (ROOT / "docs/github.md").read_text(encoding="utf-8")
GITLAB = (ROOT / "docs/gitlab.md").read_text(encoding="utf-8")


def read(path: str | Path) -> Any:
    """A YAML file's values."""
    return yaml.safe_load((ROOT / path).read_text(encoding="utf-8"))


def jobs_of(path: Path) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Every job with its workflow."""
    workflow = read(path)
    return [(workflow, job) for job in workflow["jobs"].values()]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_a_job_that_may_write_what_people_read_runs_no_code_of_a_pull_request(path: Path) -> None:
    if "schedule" in read(path)[True]:
        pytest.skip("started by the clock: no pull request's code is there")
    for workflow, job in jobs_of(path):
        permissions = job.get("permissions", workflow["permissions"])
        if "pull-requests" not in permissions:
            continue
        used = [step.get("uses", "") for step in job["steps"]]
        assert all(re.match(r"actions/checkout@|\./post$|compression-gate/compression_gate/post@", one) for one in used)
        assert not any("ref" in step.get("with", {}) for step in job["steps"])
        assert not any("run" in step for step in job["steps"])


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.name)
def test_a_template_s_token_only_reads_unless_a_job_says_more(path: Path) -> None:
    assert read(path)["permissions"] in ({}, {"contents": "read"})


def test_the_posting_workflow_follows_the_judging_one() -> None:
    (name,) = read("templates/github/compression-gate-post.yml")[True]["workflow_run"]["workflows"]
    assert name == read("templates/github/compression-gate.yml")["name"]
    (name,) = read(".github/workflows/post.yml")[True]["workflow_run"]["workflows"]
    assert name == read(".github/workflows/gate.yml")["name"]


def test_two_templates_are_what_init_writes_for_a_suite_at_the_root(tmp_path: Path) -> None:
    """So that whoever copies them after `init` overwrites them with themselves, and has no second gate."""
    (tmp_path / ".git").mkdir()
    written = {path.name: text for path, text in init.workflows(tmp_path).items()}
    assert written == {
        name: (ROOT / "templates/github" / name).read_text(encoding="utf-8")
        for name in ("compression-gate.yml", "compression-gate-post.yml")
    }


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.name)
def test_every_template_is_in_a_page(path: Path) -> None:
    pages = [page.read_text(encoding="utf-8") for page in (ROOT / "docs").glob("*.md")]
    assert any(f"templates/github/{path.name}" in page for page in pages)


def test_gitlab_s_template_is_in_its_page() -> None:
    assert "templates/gitlab/compression-gate.yml" in GITLAB


@pytest.mark.parametrize("name", [*read("action.yml")["inputs"], *read("action.yml")["outputs"]])
def test_every_input_and_output_of_the_action_is_told(name: str) -> None:
    assert f"| `{name}` |" in GITHUB


DVC_CACHES = {  # where steps that cache what DVC made stand -> what names their suite
    "action.yml": "${{ steps.place.outputs.name }}",
    ".github/workflows/gate.yml": "${{ github.event.repository.name }}",
}


@pytest.mark.parametrize(("path", "suite"), DVC_CACHES.items())
def test_a_suite_s_dvc_cache_is_saved_whatever_other_suites_saved(path: str, suite: str) -> None:
    """A key is written once: under one that names the commit alone, only the first suite's cache would be kept."""
    file = read(path)
    jobs = file["jobs"].values() if "jobs" in file else [file["runs"]]
    found = [step["with"] for job in jobs for step in job["steps"] if step.get("with", {}).get("path") == ".dvc/cache"]
    keys = {(one["key"], one["restore-keys"]) for one in found}
    assert keys == {(f"dvc-${{{{ runner.os }}}}/{suite}/${{{{ github.sha }}}}", f"dvc-${{{{ runner.os }}}}/{suite}/")}


@pytest.mark.parametrize("name", ["action.yml", "post/action.yml"])
def test_no_step_pastes_an_expression_into_a_script(name: str) -> None:
    """What a branch or a folder is called would be run."""
    for step in read(name)["runs"]["steps"]:
        assert "${{" not in step.get("run", "")


def test_the_last_step_of_the_action_ends_with_the_exit_code_and_nothing_else() -> None:
    *_, last = read("action.yml")["runs"]["steps"]
    assert last["run"] == 'exit "$CODE"'
    assert last["env"] == {"CODE": "${{ steps.run.outputs.exit-code }}"}


def test_the_poster_s_versions_are_those_of_every_install() -> None:
    def pins(path: str) -> dict[str, str]:
        lines = (ROOT / path).read_text(encoding="utf-8").splitlines()
        return dict(line.lower().split("==") for line in lines if "==" in line)

    ours, everyone = pins("post/requirements.txt"), pins("constraints.txt")
    shared = ours.keys() & everyone.keys()
    assert len(shared) >= 6
    assert {name: ours[name] for name in shared} == {name: everyone[name] for name in shared}


@pytest.mark.parametrize(
    "option", ["--open", "--to", "--from", "--follow", "--suite", "--comment", "--chat", "--dry-run"]
)
def test_every_option_of_post_is_told(option: str) -> None:
    assert re.search(rf"^\| `{option}\b", GITHUB, flags=re.MULTILINE)


def test_the_page_s_figures_are_those_that_were_measured() -> None:
    found = json.loads((ROOT / "benchmarks/results/posting.json").read_text(encoding="utf-8"))
    posts, installs = found["posts"], found["installs_s"]
    assert set(posts["writes"]) == set(posts["reads"]) == {2}
    page = " ".join(GITHUB.split())
    assert f"median of {len(posts['cpu_s'])}: {found['post_cpu_median_s']:.1f} s of CPU" in page
    assert f"({found['post_wall_median_s']:.1f} s of wall clock)" in page
    middle, least, most = found["install_median_s"], min(installs), max(installs)
    assert f"median of {len(installs)}: {middle:.0f} s ({least:.0f} to {most:.0f};" in page
    assert f"load average {found['load_average']:.0f};" in page
