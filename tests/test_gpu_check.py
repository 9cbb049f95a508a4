"""The script of a GPU day runs on a CPU, whole, and names what fails."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests import gpu_check
from tests.gpu_check import Ground, main, run

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_every_check_passes_on_a_cpu(tmp_path):
    """In a process of its own, as a person runs it: trainings and benchmarks change the process."""
    command = [sys.executable, "-m", "tests.gpu_check", "--device", "cpu", "--tiny", "--out", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    report = json.loads((tmp_path / "gpu-check.json").read_text())
    assert list(report["checks"]) == [check.__name__ for check in gpu_check.CHECKS]
    assert all(check["passed"] for check in report["checks"].values())
    assert (tmp_path / "layer-olmoe.json").exists()
    assert report["checks"]["checkpointing"]["found"]["resumed"]["weights"] == 0, "on a CPU it is the same run"


def test_a_check_that_fails_is_named_and_the_others_go_on(tmp_path, capsys):
    def broken(ground):
        raise AssertionError("no such device")

    def sound(ground):
        return {"tiny": ground.tiny}

    report = run(Ground("cpu", True, tmp_path, tmp_path), (broken, sound))
    assert [check["passed"] for check in report["checks"].values()] == [False, True]
    assert "no such device" in report["checks"]["broken"]["found"]
    assert "FAILED" in capsys.readouterr().out


def test_without_a_gpu_it_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(gpu_check.torch.cuda, "is_available", lambda: False)
    assert main(["--out", str(tmp_path / "out")]) == 2
    assert "no CUDA device" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
