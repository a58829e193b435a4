"""A failed gate names a recipe of a stored front that met the same limits, and nothing else."""

import json

import pytest

from compression_gate.records.base import digest_of
from compression_gate.records.params import Params
from compression_gate.records.search import Placed, SearchRecord
from compression_gate.records.trial import Answer, Trial
from compression_gate.records.verdict import Check, Subject, Verdict
from compression_gate.reporters.adoption import adoptions

RULES = {"accuracy": {"metric": "accuracy", "max_drop": 0.01}, "size": {"metric": "size_bytes", "max": 900}}
PARAMS = Params.model_validate_json(
    json.dumps({"task": {"model": "a:Net", "data": "a:load"}, "gate": {"rules": RULES}})
)


def placed(number, lost, size):
    figures = {"accuracy": 0.9 - lost, "size_bytes": size}
    trial = Trial(
        number=number,
        genome={},
        origin="random",
        steps=(),
        recipe_digest=f"recipe {number}",
        answer=Answer(figures=figures, verdict="pass"),
    )
    return Placed(values=(lost, size / 1000), trial=trial, recipe=f"recipes/found/{number}.yaml")


FRONT = (placed(1, 0.0, 800), placed(2, 0.004, 500), placed(3, 0.008, 300))


def search(**changes):
    values = {
        "name": "found",
        "searcher": "random",
        "executor": "local",
        "seed": 0,
        "digest": "d",
        "package_version": "1",
        "objectives": ("quality", "size_bytes"),
        "metric": "accuracy",
        "reference": {"accuracy": 0.9},
        "reference_digest": "reference",
        "trials": 9,
        "failed": 0,
        "cached": 0,
        "feasible": 3,
        "seconds": 1.0,
        "ended": "9 trials",
        "best": FRONT[-1].trial,
        "front": FRONT,
        "rules_digest": digest_of(PARAMS.as_dict()["gate"]),
    }
    return SearchRecord(**values | changes)


def verdict(status="fail", metric="size_bytes", reference="reference"):
    check = Check(rule="r", metric=metric, status=status, level="block")
    code = {"pass": 0, "fail": 1, "undecided": 3, "error": 4}[status]
    return Verdict(
        status=status,
        exit_code=code,
        policy="pull_request",
        checks=(check,),
        reference=Subject(digest=reference),
        params_digest="p",
        sources_digest="s",
        package_version="1",
    )


def test_a_failed_size_names_the_recipe_that_the_search_preferred():
    (text,) = adoptions(verdict(), PARAMS, None, [search()])
    assert "recipes/found/3.yaml met these limits on validation data (300 bytes, accuracy 0.8920" in text
    assert "compress: {recipe: recipes/found/3.yaml}" in text


def test_a_failed_quality_names_the_one_that_lost_least():
    (text,) = adoptions(verdict(metric="recall"), PARAMS, None, [search()])
    assert text.startswith("recipes/found/1.yaml")


def test_the_recipe_that_failed_is_not_named_again():
    (text,) = adoptions(verdict(metric="accuracy"), PARAMS, "recipe 1", [search()])
    assert text.startswith("recipes/found/2.yaml")
    assert adoptions(verdict(), PARAMS, "recipe 1", [search(front=FRONT[:1])]) == ()


@pytest.mark.parametrize("status", ["pass", "error"])
def test_nothing_is_named_where_nothing_failed(status):
    assert adoptions(verdict(status), PARAMS, None, [search()]) == ()


def test_a_front_that_was_judged_by_other_rules_is_not_named():
    assert adoptions(verdict(), PARAMS, None, [search(rules_digest="others")]) == ()
    assert adoptions(verdict(), PARAMS, None, [search(front=())]) == ()


def test_another_reference_is_told():
    (text,) = adoptions(verdict(reference="a newer one"), PARAMS, None, [search()])
    assert "made of another reference" in text
