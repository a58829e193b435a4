"""`dvc.yaml`: every file a stage reads is declared, or the mending command is told."""

import pytest
import yaml

from compression_gate.errors import ParamsError
from compression_gate.pipeline.definition import (
    DEFINITION,
    STAGES,
    as_dvc_yaml,
    check_definition,
    missing_deps,
    outputs_of,
    read_definition,
    sources_of,
)
from compression_gate.records.params import read_params
from compression_gate.stages.init import refresh


def definition(suite):
    return yaml.safe_load((suite.path / "dvc.yaml").read_text())


def rewrite(suite, values):
    (suite.path / "dvc.yaml").write_text(yaml.safe_dump(values, sort_keys=False))


def test_definition_has_the_seven_stages_in_order_and_calls_their_words(suite):
    stages = definition(suite)["stages"]
    assert tuple(stages) == STAGES == tuple(DEFINITION)
    assert [stage["cmd"] for stage in stages.values()] == [f"compression-gate {name}" for name in STAGES]


def test_every_output_has_one_stage_that_writes_it():
    outputs = [path for stage in DEFINITION.values() for path in outputs_of(stage)]
    assert len(set(outputs)) == len(outputs)


def test_every_stage_reads_only_what_a_stage_before_it_wrote():
    written = set()
    for name, stage in DEFINITION.items():
        own = {dep for dep in stage.deps if not dep.startswith(".compression_gate")}
        assert own <= written, name
        written |= set(outputs_of(stage))


def test_definition_that_init_writes_lacks_nothing(suite):
    params = read_params(suite.path)
    assert missing_deps(params, suite.path) == {}
    check_definition(params, suite.path)


def test_users_module_is_a_dep_of_the_stages_that_run_it(suite):
    stages = definition(suite)["stages"]
    reading = {name for name, stage in stages.items() if suite.source.name in stage["deps"]}
    assert reading == {"prepare", "train", "compress", "evaluate", "benchmark"}


def test_import_that_is_added_later_is_told_with_stage_file_and_command(suite):
    (suite.path / "layers.py").write_text("")
    suite.append("\n\nimport layers\n")
    with pytest.raises(ParamsError) as caught:
        check_definition(read_params(suite.path), suite.path)
    assert caught.value.exit_code == 2
    assert caught.value.problems[0] == (
        "dvc.yaml: stages.prepare.deps: expected layers.py, which the stage reads, got no such line: "
        "`compression-gate init --refresh` adds it"
    )
    assert len(caught.value.problems) == 5


@pytest.mark.parametrize("name", STAGES)
def test_deleted_dep_of_any_stage_is_told(suite, name):
    values = definition(suite)
    gone = values["stages"][name]["deps"].pop(0)
    rewrite(suite, values)
    with pytest.raises(ParamsError, match=rf"dvc\.yaml: stages\.{name}\.deps: expected {gone}, which.*init --refresh"):
        check_definition(read_params(suite.path), suite.path)


def test_folder_that_holds_a_source_is_enough(suite):
    (suite.path / "own").mkdir()
    (suite.path / "own" / "net.py").write_text("")
    suite.edit("task.loss", "own.net:loss")
    values = definition(suite)
    for stage in values["stages"].values():
        stage["deps"].append("./own/")
    rewrite(suite, values)
    check_definition(read_params(suite.path), suite.path)


def test_files_weights_and_recipe_are_deps(suite):
    suite.edit("task.files", ["vocabulary.txt"])
    suite.edit("task.weights", "best.pt")
    suite.edit("compress", {"recipe": "recipe.json"})
    params = read_params(suite.path)
    assert {"vocabulary.txt", "best.pt", "recipe.json"} <= set(sources_of(DEFINITION["compress"], params, suite.path))
    # Another recipe is no reason to train the reference again.
    assert "recipe.json" not in sources_of(DEFINITION["train"], params, suite.path)
    assert set(sources_of(DEFINITION["prepare"], params, suite.path)) == {"vocabulary.txt", suite.source.name}
    assert sources_of(DEFINITION["gate"], params, suite.path) == []


def test_code_and_weights_of_teachers_and_students_are_deps_of_compress_alone(suite):
    for name in ("tutor", "pupil"):
        (suite.path / f"{name}.py").write_text("")
    teacher = {"model": "tutor:Net", "weights": "tutor.safetensors"}
    step = {"method": "distillation", "teacher": ["reference", teacher], "student": {"model": "pupil:Net"}}
    suite.edit("compress.steps", [step])
    (suite.path / "best.yaml").write_text(yaml.safe_dump({"schema": 1, "steps": [step]}))
    named = {"tutor.py", "pupil.py", "tutor.safetensors"}
    for compress in ({"steps": [step]}, {"recipe": "best.yaml"}):
        suite.edit("compress", compress)
        params = read_params(suite.path)
        assert named <= set(sources_of(DEFINITION["compress"], params, suite.path))
        assert not named & set(sources_of(DEFINITION["train"], params, suite.path))


def test_weights_from_the_model_are_no_file(suite):
    suite.edit("task.weights", "from_model")
    assert sources_of(DEFINITION["train"], read_params(suite.path), suite.path) == [suite.source.name]


def test_sources_above_the_suite_are_named_from_it(suite_factory, tmp_path):
    (tmp_path / ".git").mkdir()
    suite = suite_factory("compression", definition=False)
    suite.source.rename(tmp_path / suite.source.name)
    params = read_params(suite.path)
    assert sources_of(DEFINITION["train"], params, suite.path) == [f"../{suite.source.name}"]
    (suite.path / "dvc.yaml").write_text(as_dvc_yaml(params, suite.path))
    check_definition(params, suite.path)


def test_stage_that_calls_something_else_is_told(suite):
    values = definition(suite)
    values["stages"]["gate"]["cmd"] = "true"
    rewrite(suite, values)
    with pytest.raises(ParamsError, match=r"stages\.gate\.cmd: expected 'compression-gate gate', got 'true'"):
        check_definition(read_params(suite.path), suite.path)


@pytest.mark.parametrize("name", ["compress", "gate"])
def test_a_stage_that_dvc_never_runs_again_is_refused(suite, name):
    values = definition(suite)
    values["stages"][name]["frozen"] = True
    rewrite(suite, values)
    with pytest.raises(ParamsError, match=rf"stages\.{name}\.frozen: expected no such line.*got True"):
        check_definition(read_params(suite.path), suite.path)


def test_stages_of_the_users_own_are_left_alone(suite):
    values = definition(suite)
    values["stages"]["download"] = {"cmd": "curl", "frozen": True}
    rewrite(suite, values)
    check_definition(read_params(suite.path), suite.path)


# What stands in dvc.yaml, and what is said.
NO_DEFINITIONS = [
    ("stages: [", r"dvc\.yaml: not YAML"),
    ("", r"expected a mapping `stages`"),
    ("stages: 5", r"expected a mapping `stages`"),
    ("stages: {train: 5}", r"expected a mapping `stages`"),
    ("stages: {train: {cmd: x}}", r"got none named prepare, compress, .*-C compression"),
    (f"stages: {'[' * 3000}", r"dvc\.yaml: not YAML: expected at most 100 levels"),
    ("stages: !!int x", r"dvc\.yaml: not YAML: a value is not of its kind"),
]


@pytest.mark.parametrize(("text", "expected"), NO_DEFINITIONS)
def test_file_that_is_no_definition_is_told(suite, text, expected):
    (suite.path / "dvc.yaml").write_text(text)
    with pytest.raises(ParamsError, match=expected):
        read_definition(suite.path)


# A key of a stage, what stands there, and what is expected; DVC itself refuses most of it after minutes or not at all.
NO_LISTS = [
    ("deps", None, "a list of paths, got None"),
    ("deps", "model.py", "a list of paths, got 'model.py'"),
    ("deps", [{}], r"a list of paths, got \[{}\]"),
    ("deps", [{"model.py": {}}], "a list of paths, got "),
    ("outs", [5], r"a list of paths, each plain or with options, got \[5\]"),
    ("metrics", [["reports/metrics.json"]], "a list of paths, each plain or with options, got "),
    ("plots", None, "a list of paths, each plain or with options, got None"),
    ("params", None, "a list of keys, or of files with a list of keys each, got None"),
    ("params", [{"params.yaml": 5}], "a list of keys, or of files with a list of keys each, got "),
    ("params", [{"params.yaml": "train"}], "a list of keys, or of files with a list of keys each, got "),
]


@pytest.mark.parametrize(("key", "value", "expected"), NO_LISTS)
def test_list_of_a_stage_that_is_none_is_told_with_its_key(suite, key, value, expected):
    values = definition(suite)
    values["stages"]["gate"][key] = value
    rewrite(suite, values)
    for read in (read_definition, refresh):
        with pytest.raises(ParamsError, match=rf"dvc\.yaml: stages\.gate\.{key}: expected {expected}"):
            read(suite.path)


def test_every_list_that_is_none_is_told_at_once(suite):
    values = definition(suite)
    values["stages"]["gate"] |= {"deps": None, "params": None}
    rewrite(suite, values)
    with pytest.raises(ParamsError) as caught:
        read_definition(suite.path)
    assert len(caught.value.problems) == 2


def test_entries_of_several_files_count_as_dvc_counts_them(suite):
    values = definition(suite)
    stage = values["stages"]["compress"]
    stage["outs"] = [{path: {"cache": False} for path in stage["outs"]}, {}]
    stage["params"] = [{"other.yaml": None, **stage["params"][0]}]
    rewrite(suite, values)
    check_definition(read_params(suite.path), suite.path)


def test_folder_in_place_of_the_definition_is_told(suite):
    (suite.path / "dvc.yaml").unlink()
    (suite.path / "dvc.yaml").mkdir()
    with pytest.raises(ParamsError, match=r"dvc\.yaml: cannot be read as text: .*directory"):
        read_definition(suite.path)


def test_missing_definition_names_the_command_that_writes_it(suite):
    (suite.path / "dvc.yaml").unlink()
    with pytest.raises(ParamsError, match=r"dvc\.yaml: missing: `compression-gate init` writes it"):
        read_definition(suite.path)


@pytest.mark.parametrize("section", ["      - train\n", "      - compress\n"])
def test_a_param_that_no_stage_declares_is_refused_and_refresh_adds_it(suite, section):
    """Without the line, a changed option would leave the old model under the new params."""
    path = suite.path / "dvc.yaml"
    text = path.read_text()
    path.write_text(text.replace(section, ""))
    with pytest.raises(ParamsError, match=r"stages\.\w+\.params: expected .*init --refresh"):
        check_definition(read_params(suite.path), suite.path)
    refresh(suite.path)
    check_definition(read_params(suite.path), suite.path)


def test_params_may_be_declared_of_params_yaml_itself(suite):
    path = suite.path / "dvc.yaml"
    path.write_text(path.read_text().replace(".compression_gate/params.yaml:", "params.yaml:"))
    check_definition(read_params(suite.path), suite.path)
