from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING

import pytest

from benchmarks import NAMES, instructions
from benchmarks.__main__ import goals_table, machine, main, measured
from benchmarks.harness import Goal, Result, Row, Size, Table, WrongResultError, check, median_ratio, rendered

if TYPE_CHECKING:
    from pathlib import Path

# They need the extra 'bench', redis-server and valgrind, which CI installs for its deeper tests.
pytestmark = pytest.mark.deep

SHORT = ("decode", "gets", "idle", "interactive", "listing", "traffic")
LONG = tuple(name for name in NAMES if name not in SHORT)


def pretend(monkeypatch: pytest.MonkeyPatch, name: str, outcome: Result | Exception) -> None:
    """Let a benchmark tell or raise something, without measuring."""

    def told(_: Size) -> Result:
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    monkeypatch.setattr(f"benchmarks.{name}.run", told)


def run(name: str) -> Result:
    result = measured(name, Size.TINY)
    if result.skipped:
        pytest.fail(result.skipped)
    for table in result.tables:
        assert table.rows
        assert all(row.values for row in table.rows)
        assert table.title in rendered(table)
    return result


@pytest.mark.parametrize("name", SHORT)
def test_a_tiny_run_gives_right_results(name: str) -> None:
    assert run(name).goals


@pytest.mark.parametrize("name", LONG)
def test_a_tiny_run_of_a_longer_one_gives_right_results(name: str) -> None:
    run(name)


def test_each_name_is_a_module_of_its_own_and_says_what_it_compares() -> None:
    for name in NAMES:
        assert importlib.import_module(f"benchmarks.{name}").__doc__


def test_a_wrong_result_is_refused_and_a_right_one_passes() -> None:
    check("edits", 3, 3)
    with pytest.raises(WrongResultError, match="edits: 2 instead of 3"):
        check("edits", 2, 3)


def test_the_command_fails_on_a_wrong_result_and_never_on_a_missed_goal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    missed = Goal("speed", "≤ 1", "2", met=False)
    table = Table("speed", "s", [Row("mine", [2.0])])
    pretend(monkeypatch, "decode", Result([table], [missed]))
    assert main(["decode", "--quick"]) == 0
    assert "MISSED" in capsys.readouterr().out

    pretend(monkeypatch, "decode", WrongResultError("2 groups instead of 3"))
    assert main(["decode", "--quick"]) == 1
    assert "2 groups instead of 3" in capsys.readouterr().err


def test_what_is_not_installed_is_skipped_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, "decode", ImportError("no such package", name="orjson"))
    assert measured("decode", Size.TINY).skipped.startswith("orjson is not installed")


def test_an_unknown_name_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["nothing"])
    assert "no benchmark is called nothing" in capsys.readouterr().err


def test_a_run_is_kept_in_a_file_and_told_again_and_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    table = Table("CPU per edit, 64 in flight", "µs", [Row("aiomutex", [1.0, 3.0]), Row("plain aiohttp", [4.0, 4.0])])
    pretend(monkeypatch, "edits", Result([table], [Goal("CPU", "≤ 1", "0.50", met=True)]))
    file = tmp_path / "run.json"
    assert main(["edits", "--quick", "--json", str(file)]) == 0
    capsys.readouterr()
    assert main(["goals", "--from", str(file)]) == 0
    told = capsys.readouterr().out
    assert "0.50" in told
    assert machine() in told
    if importlib.util.find_spec("matplotlib"):
        assert main(["goals", "--from", str(file), "--svg", str(tmp_path)]) == 0
        assert "<svg" in (tmp_path / "calls.svg").read_text("utf-8")


def test_tables_tell_medians_spread_and_the_median_of_paired_ratios() -> None:
    mine, base = Row("mine", [1.0, 2.0, 6.0]), Row("base", [2.0, 2.0, 4.0])
    assert median_ratio(mine, base) == 1.0
    text = rendered(Table("a table", "ms", [mine, base], baseline="base", floor="nothing at all"))
    assert "1.00 to 6.00" in text
    assert "floor: nothing at all" in text


def test_the_goals_table_names_what_holds_a_missed_one_back() -> None:
    told = goals_table([Goal("speed", "≤ 1", "2", met=False, note="the system call")])
    assert "MISSED" in told
    assert "the system call" in told


def test_growth_of_the_hot_path_fails_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def counted(name: str, *_: object) -> int:
        return 900 if name == "aiomutex" else 1000

    monkeypatch.setattr(instructions, "_count", counted)
    with pytest.raises(WrongResultError, match="edit takes"):
        instructions.run(Size.TINY)
