"""`init` writes the files of a suite, overwrites nothing, and renews deps."""

import re
import subprocess

import pytest
import yaml

from compression_gate.errors import ParamsError
from compression_gate.pipeline.definition import check_definition
from compression_gate.records.params import read_params
from compression_gate.stages import init


@pytest.fixture
def bare(suite):
    """A user's module in a git checkout, and nothing else."""
    (suite.path / "params.yaml").unlink()
    (suite.path / "dvc.yaml").unlink()
    subprocess.run(["git", "init", "-q", str(suite.path)], check=True)
    return suite


def request_for(suite, **more):
    return init.Request(model=f"{suite.module}:Net", data=f"{suite.module}:load", **more)


def contents(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and ".git/" not in path.as_posix()
    }


def test_what_a_suite_needs_is_written_and_fits(bare):
    written = init.run(bare.path, request_for(bare))
    assert sorted(path.relative_to(bare.path).as_posix() for path in written) == [
        ".github/workflows/compression-gate-post.yml",
        ".github/workflows/compression-gate.yml",
        ".gitignore",
        "dvc.yaml",
        "params.yaml",
    ]
    params = read_params(bare.path)
    check_definition(params, bare.path)
    assert params.task.model == f"{bare.module}:Net"
    assert params.gate.rules.keys() == {"accuracy", "rate", "latency"}


@pytest.mark.parametrize(("folder", "name"), [(".", "compression-gate"), ("a/1.10", "compression-gate-1.10")])
def test_the_workflow_that_tells_follows_the_one_that_judges(bare, folder, name):
    """By its name, and it expects the suite of that one alone: two suites in one repository do not start each other."""
    suite = bare.path / folder
    init.run(suite, request_for(bare))
    judging, telling = (
        yaml.safe_load((bare.path / f".github/workflows/{one}.yml").read_text()) for one in (name, f"{name}-post")
    )
    assert (judging["name"], judging["env"]) == (name, {"SUITE": folder})
    assert telling[True]["workflow_run"]["workflows"] == [name]
    assert telling["name"] == f"{name}-post"
    (step,) = telling["jobs"]["post"]["steps"]
    assert step["with"]["suites"] == ("${{ github.event.repository.name }}" if folder == "." else "1.10")


def test_a_pull_request_s_job_has_a_token_that_only_reads(bare):
    init.run(bare.path, request_for(bare))
    workflow = yaml.safe_load((bare.path / ".github/workflows/compression-gate.yml").read_text())
    assert workflow["permissions"] == {"contents": "read"}
    writing = {name for name, job in workflow["jobs"].items() if "permissions" in job}
    assert {workflow["jobs"][name]["if"] for name in writing} == {"github.event_name == 'push'"}


def test_second_time_nothing_is_written(bare):
    init.run(bare.path, request_for(bare))
    before = contents(bare.path)
    assert init.run(bare.path, request_for(bare)) == []
    assert init.run(bare.path, init.Request()) == []
    assert contents(bare.path) == before


def test_params_that_are_there_are_taken(suite):
    (suite.path / "dvc.yaml").unlink()
    before = (suite.path / "params.yaml").read_bytes()
    written = {path.name for path in init.run(suite.path, init.Request())}
    assert "dvc.yaml" in written
    assert (suite.path / "params.yaml").read_bytes() == before


def test_file_that_differs_is_refused_with_the_diff_and_all_stays(bare):
    init.run(bare.path, request_for(bare))
    bare.edit("train.epochs", 9)
    before = contents(bare.path)
    with pytest.raises(ParamsError, match=r"params\.yaml: is there and differs; init overwrites nothing") as caught:
        init.run(bare.path, request_for(bare))
    assert caught.value.exit_code == 2
    assert "\n-  epochs: 9" in str(caught.value)
    assert "\n+train: {epochs: 4," in str(caught.value)
    assert contents(bare.path) == before


def test_foreign_definition_is_refused_and_nothing_else_is_written(bare):
    (bare.path / "dvc.yaml").write_text("stages: {train: {cmd: python train.py}}\n")
    before = contents(bare.path)
    with pytest.raises(ParamsError, match=r"dvc\.yaml: is there and differs.*-C compression"):
        init.run(bare.path, request_for(bare))
    assert contents(bare.path) == before


@pytest.mark.parametrize("given", [{}, {"model": "m:Net"}, {"data": "m:load"}, {"kind": "regression"}])
def test_too_few_options_are_told_and_nothing_is_written(bare, given):
    before = contents(bare.path)
    with pytest.raises(ParamsError, match=r"init: expected --model package\.module:Net and --data"):
        init.run(bare.path, init.Request(**given))
    assert contents(bare.path) == before


@pytest.mark.parametrize(
    ("model", "expected"), [("nowhere.at_all:Net", r"no module"), ("Net", r"expected a dotted path")]
)
def test_path_that_leads_nowhere_is_told_and_nothing_is_left(bare, model, expected):
    before = contents(bare.path)
    with pytest.raises(ParamsError, match=rf"task\.model: {expected}"):
        init.run(bare.path, init.Request(model=model, data=f"{bare.module}:load"))
    assert contents(bare.path) == before


def test_every_kind_gives_params_that_can_be_read(bare):
    for kind in ("classification", "regression", "custom"):
        (bare.path / "params.yaml").unlink(missing_ok=True)
        scorer = f"{bare.module}:load" if kind == "custom" else None
        init.run(bare.path, request_for(bare, kind=kind, scorer=scorer, loss=scorer))
        assert read_params(bare.path).task.kind == kind


def test_custom_kind_without_a_scorer_says_which_option_is_missing(bare):
    with pytest.raises(ParamsError, match=r"init: expected --scorer package\.module:score"):
        init.run(bare.path, request_for(bare, kind="custom"))


def test_weights_are_a_dep(bare):
    init.run(bare.path, request_for(bare, weights="best.pt"))
    assert "best.pt" in yaml.safe_load((bare.path / "dvc.yaml").read_text())["stages"]["train"]["deps"]


def test_existing_gitignore_keeps_its_lines(bare):
    (bare.path / ".gitignore").write_text("*.log")
    init.run(bare.path, request_for(bare))
    lines = (bare.path / ".gitignore").read_text().splitlines()
    assert lines[0] == "*.log"
    assert ".compression_gate/" in lines
    assert len(lines) == len(set(lines))


def test_users_own_sources_are_not_ignored(bare):
    """A package called `models` beside the outputs of the same name stays under version control."""
    init.run(bare.path, request_for(bare))
    for name in ("models/net.py", "models/__init__.py"):
        answer = subprocess.run(["git", "-C", str(bare.path), "check-ignore", name], capture_output=True, check=False)
        assert answer.returncode == 1, name
    for name in ("models/reference/model.onnx", "models/candidate/model.onnx", "reports/verdict.json"):
        answer = subprocess.run(["git", "-C", str(bare.path), "check-ignore", name], capture_output=True, check=False)
        assert answer.returncode == 0, name


def test_two_suites_live_beside_a_foreign_pipeline_of_the_same_words(suite_factory, tmp_path):
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    foreign = {"dvc.yaml": "stages:\n  train: {cmd: python t.py}\n", "params.yaml": "train: {epochs: 7}\n"}
    for name, text in foreign.items():
        (tmp_path / name).write_text(text)
    source = suite_factory("source", definition=False).source
    source.rename(tmp_path / source.name)
    request = init.Request(model=f"{source.stem}:Net", data=f"{source.stem}:load")
    for folder in ("compression/small", "compression/large"):
        init.run(tmp_path / folder, request)
        params = read_params(tmp_path / folder)
        check_definition(params, tmp_path / folder)
        deps = yaml.safe_load((tmp_path / folder / "dvc.yaml").read_text())["stages"]["train"]["deps"]
        assert f"../../{source.name}" in deps
    assert {name: (tmp_path / name).read_text() for name in foreign} == foreign
    workflows = sorted(path.name for path in (tmp_path / ".github" / "workflows").iterdir())
    assert workflows == [f"compression-gate-{name}.yml" for name in ("large-post", "large", "small-post", "small")]
    assert not (tmp_path / ".gitignore").exists()


def test_refresh_adds_what_is_missing_drops_what_is_gone_and_keeps_the_rest(suite):
    (suite.path / "layers.py").write_text("")
    suite.append("\n\nimport layers\n")
    path = suite.path / "dvc.yaml"
    text = path.read_text().replace("  train:\n", "  # our own remark\n  train:\n", 1)
    text = text.replace("    deps:\n", "    deps:\n    - gone.py\n", 1)
    path.write_text(text + "  own_stage:\n    cmd: echo 1\n")
    diff = init.refresh(suite.path)
    check_definition(read_params(suite.path), suite.path)
    assert "+    - layers.py" in diff
    assert "-    - gone.py" in diff
    after = path.read_text()
    assert "# our own remark" in after
    assert yaml.safe_load(after)["stages"]["own_stage"] == {"cmd": "echo 1"}
    assert init.refresh(suite.path) == ""
    assert path.read_text() == after


def test_refresh_keeps_the_indentation_of_a_file_and_leaves_alone_what_lacks_nothing(suite):
    path = suite.path / "dvc.yaml"
    wide = re.sub(r"^( +)", lambda match: match[1] * 2, path.read_text(), flags=re.M)
    wide = re.sub(r"^( +)- ", r"\1  - ", wide, flags=re.M)
    path.write_text(wide)
    assert init.refresh(suite.path) == ""
    assert path.read_text() == wide
    path.write_text(wide.replace("deps:\n", "deps:\n          - gone.py\n", 1))
    changed = [line for line in init.refresh(suite.path).splitlines()[2:] if line[0] in "+-"]
    assert changed == ["-          - gone.py"]


BRANCHES = [  # what is done in the checkout, and whose pushes are recorded then
    (["git symbolic-ref HEAD refs/heads/trunk"], "trunk"),
    (
        [
            "git symbolic-ref HEAD refs/heads/topic",
            "git symbolic-ref refs/remotes/origin/HEAD refs/remotes/origin/develop",
        ],
        "develop",
    ),
]


@pytest.mark.parametrize(("commands", "branch"), BRANCHES)
def test_the_workflow_records_the_branch_that_the_repository_has(bare, commands, branch, caplog):
    for command in commands:
        subprocess.run(command.split(), cwd=bare.path, check=True)
    with caplog.at_level("INFO"):
        init.run(bare.path, request_for(bare))
    workflow = yaml.safe_load((bare.path / ".github/workflows/compression-gate.yml").read_text())
    assert workflow[True]["push"]["branches"] == [branch]
    assert f"records runs of the branch {branch}" in caplog.text


def test_a_file_in_the_place_of_a_suite_is_told(tmp_path):
    (tmp_path / "f").write_text("")
    with pytest.raises(ParamsError, match=r"-C: expected a folder, .* got .*f: File exists"):
        init.run(tmp_path / "f", init.Request(model="a:b", data="a:c"))


@pytest.mark.parametrize("name", ["dvc.yaml", ".gitignore"])
def test_what_is_no_text_is_told(bare, name):
    path = bare.path / name
    path.mkdir() if name == ".gitignore" else path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ParamsError, match=rf"{name}: expected a file of UTF-8 text, got .*: move it away"):
        init.run(bare.path, request_for(bare))


def test_refresh_mends_a_deleted_dep(suite):
    before = yaml.safe_load((suite.path / "dvc.yaml").read_text())
    values = yaml.safe_load((suite.path / "dvc.yaml").read_text())
    values["stages"]["train"]["deps"].remove(suite.source.name)
    (suite.path / "dvc.yaml").write_text(yaml.safe_dump(values))
    init.refresh(suite.path)
    after = yaml.safe_load((suite.path / "dvc.yaml").read_text())
    assert set(after["stages"]["train"]["deps"]) == set(before["stages"]["train"]["deps"])


def test_refresh_of_a_foreign_definition_is_refused(suite):
    (suite.path / "dvc.yaml").write_text("stages: {train: {cmd: python train.py}}\n")
    with pytest.raises(ParamsError, match="got none named prepare"):
        init.refresh(suite.path)


@pytest.mark.parametrize("lost", ["reports/report.html", "reports/metrics.json", "reports/plots/steps.csv"])
def test_refresh_adds_an_output_that_an_older_version_did_not_write(suite, lost):
    """Left undeclared, a report that DVC restores would stand beside another run's."""
    path = suite.path / "dvc.yaml"
    values = yaml.safe_load(path.read_text())
    for stage in values["stages"].values():
        for kind in ("outs", "metrics", "plots"):
            kept = [entry for entry in stage.get(kind, []) if entry != lost and lost not in entry]
            stage |= {kind: kept} if kind in stage else {}
    path.write_text(yaml.safe_dump(values, sort_keys=False))
    params = read_params(suite.path)
    with pytest.raises(ParamsError, match=rf"{lost} among its outs, metrics or plots.*init --refresh"):
        check_definition(params, suite.path)
    assert lost in init.refresh(suite.path)
    check_definition(params, suite.path)
    assert init.refresh(suite.path) == ""
