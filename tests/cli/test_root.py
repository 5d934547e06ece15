from __future__ import annotations

import builtins
import json
import os
import re
import signal
import subprocess
import sys
import tomllib
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from commands import commands

from aiomutex import cli
from aiomutex.cli import main
from aiomutex.cli.root import root

if TYPE_CHECKING:
    from command_line import Aiomutex

    from aiomutex.testing import MutexEmulator


def test_help_lists_each_command_and_the_exit_codes(aiomutex: Aiomutex) -> None:
    done = aiomutex("--help")
    assert done.exit_code == 0
    for name in root.commands:
        assert f"\n  {name} " in done.stdout


def test_every_help_has_the_table_of_exit_codes_and_an_end_of_its_sentences(aiomutex: Aiomutex) -> None:
    for words, command in [((), root), *commands()]:
        done = aiomutex(*words, "--help")
        assert "\n    4    the live groups differ from the file\n    130  stopped by Ctrl-C\n" in done.stdout
        assert "\b" not in done.stdout
        assert str(command.help).partition("\n")[0].endswith(".")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_completes_commands_and_the_keys_listed_last(
    shell: str, service: MutexEmulator, aiomutex: Aiomutex, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    script = aiomutex("completion", shell)
    assert script.exit_code == 0
    assert f"_AIOMUTEX_COMPLETE={shell}_complete" in script.stdout

    def complete(*words: str) -> str:
        count = "COMP_CWORD", str(len(words) - 1)
        environment = dict([("COMP_WORDS", " ".join(words)), count, ("_AIOMUTEX_COMPLETE", f"{shell}_complete")])
        if shell == "fish":
            environment["COMP_CWORD"] = words[-1]
        command = [sys.executable, "-m", "aiomutex"]
        done = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, check=False)
        assert done.stderr == ""
        return done.stdout

    assert "slots" in complete("aiomutex", "sl")
    assert "group-3" not in complete("aiomutex", "groups", "get", "group")
    service.groups["3"].key = "grüppe"
    assert aiomutex("groups", "list", "--limit", "1").exit_code == 0
    assert aiomutex("groups", "list").exit_code == 0
    for words in (["groups", "get"], ["groups", "edit"], ["groups", "archive"], ["slots", "edit"]):
        assert "group-4" in complete("aiomutex", *words, "group-")
        assert "grüppe" in complete("aiomutex", *words, "grü")
    assert len(service.requests) == 2, "completing sends nothing"


def test_help_toml_names_only_commands() -> None:
    texts = tomllib.loads((Path(cli.__file__).parent / "help.toml").read_text("utf-8"))
    assert texts.keys() <= {"", "exit codes", *(" ".join(words) for words, _ in commands())}


def test_help_imports_no_http_client() -> None:
    code = "import sys, aiomutex.cli.root; print({'aiohttp', 'msgspec', 'rich', 'yaml'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_no_command_takes_the_key_as_an_argument() -> None:
    def options(command: Any) -> set[str]:
        found = {option for parameter in command.params for option in parameter.opts}
        for child in getattr(command, "commands", {}).values():
            found |= options(child)
        return found

    # The emulator's --key is the key that it accepts, which is not a secret.
    commands = [command for name, command in root.commands.items() if name != "emulator"]
    assert not [option for command in commands for option in options(command) if "api" in option]


def test_without_the_extra_the_command_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without_click(name: str, *rest: Any, **more: Any) -> Any:
        if name == "aiomutex.cli.root":
            raise ModuleNotFoundError("No module named 'click'", name="click")
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without_click)
    with pytest.raises(SystemExit, match=re.escape("pip install 'aiomutex[cli]'")):
        main()


def test_the_demo_edits_and_verifies_every_slot(aiomutex: Aiomutex) -> None:
    done = aiomutex("demo", "--groups", "5", "--json")
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout)
    assert result["edits"] == result["applied"] == result["requests"] == result["read_back_slots"] == 15
    assert result["wrong_slots"] == result["answered_429"] == 0


def test_the_demo_prints_a_summary(aiomutex: Aiomutex) -> None:
    done = aiomutex("demo", "--groups", "2")
    assert "  applied  6\n" in done.stdout
    assert "  answered 429  0\n" in done.stdout


def test_the_demo_keeps_its_page_open_until_ctrl_c() -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "aiomutex", "demo", "--groups", "2", "--keep"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stderr is not None
    url = re.search(r"http://[0-9.:]+", process.stderr.readline())
    assert url is not None
    assert any("stays open" in line for line in process.stderr)
    with urllib.request.urlopen(url[0]) as page:
        assert b"aiomutex emulator" in page.read()
    with urllib.request.urlopen(f"{url[0]}/status.json") as response:
        assert json.load(response)["groups_total"] == 2
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=10)
    assert (process.returncode, err) == (0, "")
    assert "  applied  6\n" in out


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_emulator_serves_until_a_signal_stops_it(number: int, tmp_path: Path) -> None:
    words = ["-m", "aiomutex", "emulator", "--port", "0", "--groups", "2", "--key", "k", "--state", "s.db"]
    process = subprocess.Popen(
        [sys.executable, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path
    )
    assert process.stdout is not None
    url = re.search(r"http://\S+", process.stdout.readline())
    assert url is not None
    request = urllib.request.Request(f"{url[0]}/api/1/mutexes", headers={"Authorization": "Bearer k"})
    with urllib.request.urlopen(request) as response:
        assert len(json.load(response)["mutexes"]) == 2
    process.send_signal(number)
    _, err = process.communicate(timeout=10)
    assert process.returncode == 0
    assert "GET /api/1/mutexes 200" in err


def test_an_invalid_fault_exits_with_2(aiomutex: Aiomutex) -> None:
    done = aiomutex("emulator", "--fault", "explode:2%")
    assert done.exit_code == 2
    assert "explode" in done.stderr


def test_an_unusable_state_file_is_reported_in_one_line_and_exits_with_2(aiomutex: Aiomutex, tmp_path: Path) -> None:
    done = aiomutex("emulator", "--port", "0", "--state", str(tmp_path / "nowhere" / "s.db"))
    assert done.exit_code == 2
    assert done.stderr.startswith("aiomutex: ")
    assert done.stderr.endswith("nowhere/s.db cannot be used as a state file: unable to open database file\n")
