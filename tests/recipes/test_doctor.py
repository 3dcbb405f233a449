from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from danlu.base.device import choose_device, choose_precision
from danlu.base.errors import ConfigError
from danlu.kernels import native
from danlu.recipes.doctor import doctor


def doctor_apart(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    code = (
        "import sys\nfrom danlu.base.errors import DanluError\nfrom danlu.recipes.doctor import doctor\n"
        f"try: doctor({', '.join(arguments)})\nexcept DanluError as error: print('danlu:', error, file=sys.stderr); sys.exit(2)"
    )
    settings = {**os.environ, "DANLU_HOME": str(folder / "home"), **environment}
    return subprocess.run([sys.executable, "-c", code], env=settings, capture_output=True, text=True, cwd=folder, timeout=120)


def test_a_ready_machine_is_told_so_line_by_line(capsys: pytest.CaptureFixture[str]) -> None:
    report = doctor()
    shown = capsys.readouterr().out.splitlines()
    assert report["usable"] and shown[-1] == "this machine is ready"
    assert len(shown) == len(report["checks"]) + 1
    assert all(line.startswith(("ok ", "missing ")) for line in shown[:-1])
    assert all(" -> " in line for line in shown if line.startswith("missing"))
    said = {check["name"]: check["said"] for check in report["checks"]}
    assert platform.python_version() in said["python"] and "threads" in said["torch"]
    assert (
        "free of" in said["memory"]
        and "free at" in said["disk for cache"]
        and choose_precision("auto", choose_device())[0] in said["precision"]
    )
    assert {"processor", "compiler", "pip", "npm", "apt-get", "cached", "disk for runs"} <= said.keys() and "hub" not in said


def test_json_is_one_object(capsys: pytest.CaptureFixture[str]) -> None:
    doctor(json=True)
    report = json.loads(capsys.readouterr().out)
    assert report["usable"] and {"name", "ok", "said", "mend", "needed"} == report["checks"][0].keys()


def test_a_broken_torch_is_a_missing_line_and_exit_2(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise ImportError('libtorch_cpu.so: cannot open shared object file')")
    done = doctor_apart(tmp_path, PYTHONPATH=str(tmp_path))
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "not ready: torch" in done.stderr
    line = next(line for line in done.stdout.splitlines() if " torch:" in line)
    assert line.startswith("missing") and "libtorch_cpu.so" in line and "pip install torch" in line
    assert "ready" not in done.stdout.splitlines()[-1]


def test_a_cache_that_cannot_be_written_is_exit_2_and_names_the_mend(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    done = doctor_apart(tmp_path, DANLU_HOME=str(tmp_path / "file" / "home"))
    assert done.returncode == 2 and "disk for cache" in done.stderr
    assert any("DANLU_HOME" in line and line.startswith("missing") for line in done.stdout.splitlines())


def test_missing_clients_and_compiler_leave_it_usable(tmp_path: Path) -> None:
    done = doctor_apart(tmp_path, PATH=str(tmp_path))
    assert done.returncode == 0, done.stderr
    missing = {line.split()[1].rstrip(":"): line for line in done.stdout.splitlines() if line.startswith("missing")}
    assert {"compiler", "npm", "apt-get"} <= missing.keys() and all(" -> " in line for line in missing.values())


def test_the_hub_is_asked_only_on_request(tmp_path: Path) -> None:
    done = doctor_apart(tmp_path, "network=True", HF_ENDPOINT="http://127.0.0.1:9")
    assert done.returncode == 0
    assert any(line.startswith("missing  hub: http://127.0.0.1:9") and "HF_ENDPOINT" in line for line in done.stdout.splitlines())


def test_precision_is_what_training_will_choose(tmp_path: Path) -> None:
    chosen, why = choose_precision("auto", choose_device())
    assert any(line.split() == f"ok precision: training in {chosen}: {why}".split() for line in doctor_apart(tmp_path).stdout.splitlines())


def test_the_kernels_that_will_answer_are_named(tmp_path: Path) -> None:
    found = native.found()
    lines = [line for line in doctor_apart(tmp_path).stdout.splitlines() if "kernels:" in line]
    assert len(lines) == 1 and lines[0].startswith("ok" if found else "missing")
    assert found is None or found[0] in lines[0]
    assert ("by tiles" in lines[0]) == native.tiles()


def test_an_unusable_machine_is_a_config_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="disk for runs"):
        doctor(runs=tmp_path / "file" / "runs")
