from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING

import pytest

from benchmarks import NAMES, instructions
from benchmarks.__main__ import goals_table, machine, main, measured
from benchmarks.harness import Goal, Result, Row, Size, Table, WrongResultError, check, median_ratio, rendered

if TYPE_CHECKING:
    from pathlib import Path

# These need the extra 'bench', redis-server and Valgrind, which CI installs for the deep tests.
pytestmark = pytest.mark.deep

SHORT = ("decode", "gets", "idle", "interactive", "listing", "traffic")
LONG = tuple(name for name in NAMES if name not in SHORT)


def replace_run(monkeypatch: pytest.MonkeyPatch, name: str, outcome: Result | Exception) -> None:
    """Let a benchmark return or raise ``outcome`` without measuring."""

    def fake_run(_: Size) -> Result:
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    monkeypatch.setattr(f"benchmarks.{name}.run", fake_run)


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
def test_a_tiny_run_has_correct_results(name: str) -> None:
    assert run(name).goals


@pytest.mark.parametrize("name", LONG)
def test_a_tiny_run_of_a_longer_benchmark_has_correct_results(name: str) -> None:
    run(name)


def test_each_name_is_a_module_with_a_docstring() -> None:
    for name in NAMES:
        assert importlib.import_module(f"benchmarks.{name}").__doc__


def test_check_raises_for_a_wrong_result_only() -> None:
    check("edits", 3, 3)
    with pytest.raises(WrongResultError, match="edits: 2 instead of 3"):
        check("edits", 2, 3)


def test_the_command_fails_for_a_wrong_result_but_not_for_a_missed_goal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    missed = Goal("speed", "≤ 1", "2", met=False)
    table = Table("speed", "s", [Row("mine", [2.0])])
    replace_run(monkeypatch, "decode", Result([table], [missed]))
    assert main(["decode", "--quick"]) == 0
    assert "MISSED" in capsys.readouterr().out

    replace_run(monkeypatch, "decode", WrongResultError("2 groups instead of 3"))
    assert main(["decode", "--quick"]) == 1
    assert "2 groups instead of 3" in capsys.readouterr().err


def test_a_missing_package_skips_the_benchmark_and_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    replace_run(monkeypatch, "decode", ImportError("no such package", name="orjson"))
    assert measured("decode", Size.TINY).skipped.startswith("orjson is not installed")


def test_an_unknown_name_is_rejected(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["nothing"])
    assert "unknown benchmarks: nothing" in capsys.readouterr().err


def test_a_run_is_stored_in_a_file_and_printed_again_and_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    table = Table("CPU per edit, 64 in flight", "µs", [Row("aiomutex", [1.0, 3.0]), Row("plain aiohttp", [4.0, 4.0])])
    replace_run(monkeypatch, "edits", Result([table], [Goal("CPU", "≤ 1", "0.50", met=True)]))
    file = tmp_path / "run.json"
    assert main(["edits", "--quick", "--json", str(file)]) == 0
    capsys.readouterr()
    assert main(["goals", "--from", str(file)]) == 0
    printed = capsys.readouterr().out
    assert "0.50" in printed
    assert machine() in printed
    if importlib.util.find_spec("matplotlib"):
        assert main(["goals", "--from", str(file), "--svg", str(tmp_path)]) == 0
        assert "<svg" in (tmp_path / "calls.svg").read_text("utf-8")


def test_tables_show_medians_ranges_and_the_median_of_paired_ratios() -> None:
    mine, base = Row("mine", [1.0, 2.0, 6.0]), Row("base", [2.0, 2.0, 4.0])
    assert median_ratio(mine, base) == 1.0
    text = rendered(Table("a table", "ms", [mine, base], baseline="base", floor="zero"))
    assert "1.00 to 6.00" in text
    assert "floor: zero" in text


def test_the_goals_table_explains_a_missed_goal() -> None:
    table = goals_table([Goal("speed", "≤ 1", "2", met=False, note="the system call")])
    assert "MISSED" in table
    assert "the system call" in table


def test_too_many_instructions_fail_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def counted(name: str, *_: object) -> int:
        return 900 if name == "aiomutex" else 1000

    monkeypatch.setattr(instructions, "_count", counted)
    with pytest.raises(WrongResultError, match="edit over http takes"):
        instructions.run(Size.TINY)
