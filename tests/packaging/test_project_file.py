"""The MLproject file: every entry point is one of `jobs.project`, with exactly the parameters that it takes."""

import re
import shlex

import pytest
import yaml
from mlflow.projects import _project_spec
from mlflow.utils.environment import _PythonEnv

from jobs.project import ENTRIES, main
from tests.packaging.locks import MAIN_LOCK, ROOT, read_versions

PROJECT = yaml.safe_load((ROOT / "MLproject").read_text(encoding="utf-8"))


def test_mlflow_reads_the_project_file_and_its_environment() -> None:
    project = _project_spec.load_project(str(ROOT))  # type: ignore[no-untyped-call]  # MLflow's own reader
    environment = _PythonEnv.from_conda_yaml(project.env_config_path)  # type: ignore[no-untyped-call]  # as above

    assert project.name == "millrace"
    assert set(project._entry_points) == set(ENTRIES)
    assert environment.python == "3.11"
    assert f"mlflow=={read_versions(MAIN_LOCK)['mlflow']}" in environment.dependencies


@pytest.mark.parametrize("name", ENTRIES)
def test_entry_point_passes_what_the_command_takes(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    entry = PROJECT["entry_points"][name]
    command = shlex.split(entry["command"])
    with pytest.raises(SystemExit) as ended:
        main([name, "--help"])
    taken = set(re.findall(r"--(\w+)", capsys.readouterr().out)) - {"help"}

    assert ended.value.code == 0
    assert command[:5] == ["python", "-m", "jobs.project", name, "{workload}"]
    assert set(command[5:]) == {f"--{option}={{{option}}}" for option in taken}
    assert set(entry["parameters"]) == taken | {"workload"}
