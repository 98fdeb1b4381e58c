"""The guard, run as a program of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from core.supervision import build_guarded_command

REPOSITORY = Path(__file__).parent.parent.parent
UNSHARED = ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--mount-proc"]

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux binds a process to its parent")


def test_guarded_command_has_its_own_arguments_output_and_exit_code() -> None:
    program = "import sys; print(sys.argv[1:]); sys.exit(7)"

    ended = subprocess.run(
        build_guarded_command([sys.executable, "-c", program, "a b", "--c", ""]),
        capture_output=True,
        text=True,
        check=False,
    )

    assert (ended.returncode, ended.stdout, ended.stderr) == (7, "['a b', '--c', '']\n", "")


def test_command_does_not_start_when_the_parent_that_asked_for_it_is_gone(tmp_path: Path) -> None:
    dead = subprocess.Popen(["true"])
    dead.wait()
    guarded = build_guarded_command(["touch", str(tmp_path / "ran")])
    guarded[guarded.index(str(os.getpid()))] = str(dead.pid)

    orphan = subprocess.run(guarded, check=False)

    assert orphan.returncode == 1
    assert not (tmp_path / "ran").exists()


def test_command_that_process_one_asked_for_starts_and_lives() -> None:
    """As in a container whose command is the supervisor: its children are no orphans."""
    if subprocess.run([*UNSHARED, "true"], check=False, capture_output=True).returncode != 0:
        pytest.skip("this machine allows no process namespaces")
    program = """
import os, subprocess
from core.supervision import build_guarded_command
guarded = build_guarded_command(["sh", "-c", "sleep 0.2; echo lived"])
ended = subprocess.run(guarded, capture_output=True, text=True)
print(os.getpid(), ended.returncode, ended.stdout.strip())
"""

    supervisor = subprocess.run(
        [*UNSHARED, sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )

    assert supervisor.stdout.split() == ["1", "0", "lived"]
