"""What holds for the repository as a whole."""

import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.y*ml"))
# Put together here, so that this file does not hold what it looks for.
REGISTRY_HOSTS = [
    ".".join(parts)
    for parts in (
        ("pypi", "org"),
        ("pythonhosted", "org"),
        ("download", "pytorch", "org"),
        ("registry", "npmjs", "org"),
        ("deb", "debian", "org"),
        ("archive", "ubuntu", "com"),
        ("anaconda", "org"),
    )
]
MACHINE_FOLDERS = [f"/{folder}/" for folder in ("root", "work", "home/runner", "opt/wheels", "Users")]


def tracked_files():
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("not a git work tree: what is tracked is not known")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [ROOT / name for name in listed.split("\0") if name and (ROOT / name).is_file()]


def targets_of_makefile():
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    return re.search(r"^\.PHONY: (.+)$", text, flags=re.MULTILINE)[1].split()


def pins():
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return dict(line.split("==") for line in lines if line and not line.startswith("#"))


def normalized(requirement):
    return re.match(r"[A-Za-z0-9._-]+", requirement)[0].lower().replace("_", "-")


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_workflow_has_jobs_and_a_token_that_only_reads(path):
    workflow = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert workflow["jobs"]
    assert workflow["permissions"] in ({}, {"contents": "read"})


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_workflow_runs_on_every_change(path):
    """A filter by path would leave a required check waiting for ever on changes outside it."""
    triggers = yaml.safe_load(path.read_text(encoding="utf-8"))[True]  # YAML 1.1 reads the key `on` as true
    assert not any({"paths", "paths-ignore"} & set(options or {}) for options in triggers.values())


def test_there_is_a_workflow():
    assert WORKFLOWS


@pytest.mark.parametrize("target", targets_of_makefile())
def test_makefile_target_is_described(target):
    prose = "".join((ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "CONTRIBUTING.md"))
    assert f"make {target}" in prose


def test_constraints_pin_torch_in_whatever_build_the_machine_has():
    """A local part such as +cpu would leave out every machine whose wheels lack it."""
    assert pins()["torch"] == "2.13.0"


def test_constraints_pin_every_direct_dependency():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    direct = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    assert {normalized(line) for line in direct} <= {normalized(name) for name in pins()}


def test_tests_are_no_package():
    """A dependency ships a top-level package called `tests`; ours would be taken for it, or it for ours."""
    assert not list((ROOT / "tests").rglob("__init__.py"))


def test_tracked_files_name_no_registry_and_no_machine():
    """A lock file or a log that slipped in ties the project to one network or one person's folders."""
    words = re.compile("|".join(re.escape(word) for word in (*REGISTRY_HOSTS, *MACHINE_FOLDERS)))
    faults = []
    for path in tracked_files():
        text = path.read_bytes().decode("utf-8", errors="replace")
        faults += [f"{path.relative_to(ROOT)}: {found[0]}" for found in words.finditer(text) if path != Path(__file__)]
    assert not faults


def test_no_lock_file_of_an_installer_is_tracked():
    assert not {path.name for path in tracked_files()} & {"uv.lock", "poetry.lock", "Pipfile.lock"}


def test_ci_runs_the_two_commands_of_the_readme():
    script = (ROOT / ".ci/run").read_text(encoding="utf-8")
    assert script.index("make test") < script.index("make gate")
