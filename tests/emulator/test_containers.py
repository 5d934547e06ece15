"""The compose file of the emulator's guide, with network namespaces in place of the containers."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from aiomutex.cli.root import root

ROOT = Path(__file__).parents[2]
UNSHARE = ["unshare", "--map-root-user", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
SCRIPT = """
set -e
unshare --net sleep 60 &
container=/proc/$!/ns/net
while [ "$(readlink $container)" = "$(readlink /proc/self/ns/net)" ]; do sleep 0.01; done
ip link add here type veth peer name there netns $!
ip address add 10.77.0.1/24 dev here
ip link set here up
nsenter --net=$container ip address add 10.77.0.2/24 dev there
nsenter --net=$container ip link set there up
echo '10.77.0.2 emulator stranger' >hosts
mount --bind hosts /etc/hosts
nsenter --net=$container $EMULATOR >log 2>&1 &
until grep -q 'listens on' log; do sleep 0.05; done
$APP
case $AIOMUTEX_BASE_URL in https:*) exit ;; esac
AIOMUTEX_BASE_URL=http://stranger:8080 $APP || true
"""


def namespaces_work() -> bool:
    try:
        subprocess.run([*UNSHARE, "ip", "link", "add", "here", "type", "veth"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        return False
    return True


def compose() -> dict[str, Any]:
    text = (ROOT / "aiomutex/emulator/README.md").read_text()
    [file] = re.findall(r"^```yaml compose.yaml\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    services: dict[str, Any] = yaml.safe_load(file)["services"]
    return services


def command(service: dict[str, Any]) -> str:
    """The last command of a container, with this Python in place of the container's."""
    script = shlex.split(service["command"])[-1]
    return f"{sys.executable} -m {script.partition('exec ')[2]}"


@pytest.mark.skipif(not namespaces_work(), reason="this machine has no network namespaces, or allows none")
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_another_container_reaches_the_emulator_by_its_name_only(tmp_path: Path, scheme: str) -> None:
    services = compose()
    environment = os.environ | services["app"]["environment"]
    environment |= {"EMULATOR": command(services["emulator"]), "APP": command(services["app"]), "PYTHONPATH": str(ROOT)}
    if scheme == "https":
        environment["EMULATOR"] += " --tls-self-signed=ca.pem"
        environment["AIOMUTEX_BASE_URL"] = environment["AIOMUTEX_BASE_URL"].replace("http:", "https:")
        environment["SSL_CERT_FILE"] = "ca.pem"
        del environment["AIOMUTEX_ALLOW_INSECURE_HTTP"]
    script = [*UNSHARE, "sh", "-c", SCRIPT]
    run = subprocess.run(script, check=False, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)
    log = (tmp_path / "log").read_text()
    assert "group-100" in run.stdout, (run, log)
    assert f"listens on {scheme}://0.0.0.0:8080" in log
    assert "Other machines can reach it: read all groups without a key, and change them with any key." in log
    assert "URLs may name 0.0.0.0, emulator, localhost" in log
    if scheme == "http":
        assert "sent over plain http to emulator:8080" in run.stderr
        assert "the emulator is not addressed as 'stranger:8080'" in run.stderr


def test_a_certificate_that_cannot_be_made_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    nowhere = tmp_path / "nowhere" / "ca.pem"
    result = CliRunner().invoke(root, ["emulator", f"--tls-self-signed={nowhere}"])
    assert (result.exit_code, result.stderr) == (
        1,
        f"aiomutex: {nowhere}: No such file or directory\n",
    )
    result = CliRunner().invoke(root, ["emulator", "--tls-self-signed", "--allow-host", "not_a_dns_name"])
    assert result.exit_code == 2
    monkeypatch.setitem(sys.modules, "trustme", None)
    result = CliRunner().invoke(root, ["emulator", "--tls-self-signed"])
    assert (result.exit_code, result.stderr) == (
        1,
        "aiomutex: --tls-self-signed needs trustme: pip install 'aiomutex[tls]'\n",
    )
