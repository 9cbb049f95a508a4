"""Several devices for one evaluation: the files are those of one, and a process that is lost is named."""

import os
import signal
import threading
import time
from pathlib import Path

import pytest

from expert_condenser.checkpoint.load import base_model_path, load_tokenizer
from expert_condenser.cli.main import main
from expert_condenser.errors import EvaluationError
from expert_condenser.evaluation.backends.base import ForcedBackend, ScoringBackend, SharedBackend
from expert_condenser.evaluation.backends.local import LocalBackend
from expert_condenser.evaluation.backends.spread import SpreadBackend
from expert_condenser.evaluation.generation import Generation
from tests.evaluation.test_evaluate import Counting, run
from tests.runs import read

EVAL = ["eval", "--model", "testbed", "--tasks", "testbed:gcd,testbed:aiw", "--limit", "7", "--batch_size", "2"]


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(base_model_path())


class Slow(Counting):
    """Answers two batches at a time, an early one after the next."""

    at_once = 2

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.running, self.most, self.lock = 0, 0, threading.Lock()

    def generate(self, prompts, max_new_tokens, generation, seed):
        with self.lock:
            self.running += 1
            self.most = max(self.most, self.running)
        time.sleep(0.05 if seed % 2 else 0.15)
        with self.lock:
            self.running -= 1
            return super().generate(prompts, max_new_tokens, generation, seed)


def test_answers_come_in_the_order_of_their_batches(tokenizer, tmp_path):
    one, two = Counting(), Slow()
    run(one, tokenizer, tmp_path / "one")
    run(two, tokenizer, tmp_path / "two")
    assert isinstance(two, SharedBackend)
    assert not isinstance(one, SharedBackend)
    assert two.most == 2
    assert [seed for *_, seed in two.calls] != [seed for *_, seed in one.calls], "control"
    assert (tmp_path / "two" / "items.jsonl").read_bytes() == (tmp_path / "one" / "items.jsonl").read_bytes()


def test_what_was_answered_before_a_failure_is_kept(tokenizer, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(Slow(dies_at=3), tokenizer, tmp_path)
    assert 2 <= len((tmp_path / "items.jsonl").read_text().splitlines()) <= 6
    whole = run(Counting(), tokenizer, tmp_path)
    assert whole["tasks"] == run(Counting(), tokenizer, tmp_path / "whole")["tasks"]


@pytest.mark.parametrize("mode", ["generate", pytest.param("teacher_forced", marks=pytest.mark.slow)])
def test_two_devices_leave_the_files_of_one(tmp_path, mode):
    """To the bit, the nll of the references included."""
    for name, device in (("one", "cpu"), ("two", "cpu,cpu")):
        assert main([*EVAL, "--mode", mode, "--device", device, "--output_dir", str(tmp_path / name)]) == 0
    assert (tmp_path / "two" / "items.jsonl").read_bytes() == (tmp_path / "one" / "items.jsonl").read_bytes()
    one, two = (read(tmp_path / name / "results.json") for name in ("one", "two"))
    assert {**two, "throughput": None} == {**one, "throughput": None}
    assert one["tasks"]["testbed:gcd"]["nll"] > 0


def test_a_process_that_is_lost_is_named(tokenizer):
    path = base_model_path()
    with SpreadBackend(path, tokenizer, ["cpu", "cpu"]) as backend:
        assert isinstance(backend, ForcedBackend)
        assert isinstance(backend, ScoringBackend)
        assert backend.identity == LocalBackend(path, tokenizer, device="cpu").identity
        pids = [worker.process.pid for worker in backend._workers]
        os.kill(pids[0], signal.SIGKILL)
        with pytest.raises(EvaluationError, match="the process of the device cpu ended before it answered"):
            backend.generate(["1+1"], 2, Generation(), 0)
        with pytest.raises(EvaluationError, match="on the device cpu: "):
            backend.generate([], 2, Generation(), 0)
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)


@pytest.mark.parametrize("backend", ["vllm", "lm_eval"])
def test_several_devices_are_for_one_backend(backend, tmp_path, capsys):
    assert main([*EVAL, "--backend", backend, "--device", "cuda:0,cuda:1", "--output_dir", str(tmp_path / "out")]) == 2
    err = capsys.readouterr().err
    assert "several devices need --backend transformers" in err or "leave --device out" in err
