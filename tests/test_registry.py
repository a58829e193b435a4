"""Plugins: by name, loaded when named, and plain about what is unknown or not installed."""

import importlib.metadata

import pytest

from compression_gate.errors import MissingDependencyError, UnknownPluginError
from compression_gate.methods import METHODS
from compression_gate.registry import Plugin, find, load, nearest
from compression_gate.runtimes import RUNTIMES

TABLE = {
    "decoder": Plugin(target="json:JSONDecoder", summary="reads"),
    "absent": Plugin(target="no_such_library_at_all.part:Thing", summary="needs more", needs="more"),
    "broken": Plugin(target="compression_gate.no_such_module:Thing", summary="a fault of ours"),
}


@pytest.mark.parametrize(("kind", "table"), [("methods", METHODS), ("runtimes", RUNTIMES)])
def test_every_row_of_a_table_loads_or_says_what_to_install(kind, table):
    for name, row in table.items():
        try:
            loaded = load(kind, name, table)
        except MissingDependencyError:
            assert row.needs, name
        else:
            assert callable(loaded), name


def test_named_plugin_is_imported():
    import json

    assert load("things", "decoder", TABLE) is json.JSONDecoder


def test_unknown_name_is_told_with_the_known_ones_and_the_nearest():
    with pytest.raises(
        UnknownPluginError,
        match=r"things: expected one of absent, broken, decoder, got 'decodr' \(did you mean 'decoder'\?\)",
    ) as caught:
        find("things", "decodr", TABLE)
    assert caught.value.exit_code == 2


def test_library_that_is_not_installed_is_told_with_its_extra():
    with pytest.raises(
        MissingDependencyError, match=r"absent needs the library 'no_such_library_at_all'.*'compression-gate\[more\]'"
    ):
        load("things", "absent", TABLE)


def test_fault_of_ours_is_not_taken_for_a_missing_library():
    with pytest.raises(ModuleNotFoundError, match="compression_gate"):
        load("things", "broken", TABLE)


def test_third_party_plugin_is_found_by_its_entry_point(monkeypatch):
    entry = importlib.metadata.EntryPoint(name="theirs", value="json:JSONEncoder", group="compression_gate.things")
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: [entry] if group == entry.group else [])
    assert load("things", "theirs", TABLE).__name__ == "JSONEncoder"
    assert find("things", "decoder", TABLE) is TABLE["decoder"]


def test_nothing_near_says_nothing():
    assert nearest("zzz", TABLE) == ""
