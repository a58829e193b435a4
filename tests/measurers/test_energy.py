"""Energy counters as Linux shows them, in a folder made by hand: few machines let a test read real ones."""

from __future__ import annotations

import pytest

from compression_gate.measurers import energy

RANGE = 262_143_328_850


@pytest.fixture
def powercap(tmp_path):
    """Two packages, one with its cores as a part, and the whole platform, which counts them again."""
    for zone, name in (
        ("intel-rapl:0", "package-0"),
        ("intel-rapl:0:0", "core"),
        ("intel-rapl:1", "package-1"),
        ("intel-rapl:2", "psys"),
        ("intel-rapl-mmio:0", "package-0"),
    ):
        (tmp_path / zone).mkdir()
        (tmp_path / zone / "name").write_text(f"{name}\n")
        (tmp_path / zone / "energy_uj").write_text("1000000\n")
        (tmp_path / zone / "max_energy_range_uj").write_text(f"{RANGE}\n")
    return tmp_path


def test_packages_are_counted_and_not_their_parts(powercap):
    found = energy.counters(powercap)
    assert [counter.path.parent.name for counter in found] == ["intel-rapl:0", "intel-rapl:1"]
    assert found[0].range_uj == RANGE


def test_a_machine_without_counters_has_none(tmp_path):
    assert energy.counters(tmp_path / "powercap") == []


def test_counters_that_may_not_be_read_are_none(powercap):
    """A folder in place of the file: root, as whom tests may run, reads whatever a file's mode says."""
    (powercap / "intel-rapl:1/energy_uj").unlink()
    (powercap / "intel-rapl:1/energy_uj").mkdir()
    assert energy.counters(powercap) == []


def test_one_package_without_a_number_leaves_no_counter(powercap):
    (powercap / "intel-rapl:1/energy_uj").write_text("broken")
    assert energy.counters(powercap) == []


STEPS = [(1_000_000, 3_500_000, 2.5), (RANGE - 500_000, 1_500_000, 2.0), (7, 7, 0.0)]


@pytest.mark.parametrize(("before", "after", "joules"), STEPS)
def test_a_counter_that_began_again_is_read_on(powercap, before, after, joules):
    assert energy.counters(powercap)[0].joules(before, after) == pytest.approx(joules)


def test_calls_are_charged_with_what_all_packages_counted(powercap, monkeypatch):
    monkeypatch.setattr(energy, "IDLE_S", 0.01)
    packages = energy.counters(powercap)

    def call():
        for package in packages:
            package.path.write_text(str(package.read() + 250_000))

    used = energy.used_by(call, 0.02, packages)
    assert used.joules == pytest.approx(2 * 0.25 * used.calls)
    assert used.idle_w == 0
    assert used.wall_s >= 0.02


def test_without_counters_there_is_cpu_time_and_no_energy():
    used = energy.used_by(lambda: sum(range(10_000)), 0.02, [])
    assert (used.joules, used.idle_w) == (None, None)
    assert used.calls >= 3
    assert 0 < used.cpu_s <= used.wall_s * 1.5
