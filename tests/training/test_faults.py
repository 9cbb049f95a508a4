"""Signals and deaths of the processes of a run: all of them stop with a message, and a resumed run ends as if nothing
had happened.
"""

import json
import os
import re
import signal
import threading
import time

import pytest
import torch

from expert_condenser.errors import FailedRunError, StorageError, TrainingError
from expert_condenser.files import full_disk_named
from expert_condenser.ownership import LOCK
from expert_condenser.training.lost_process import lost_process_named
from expert_condenser.training.refusals import refusals_named
from expert_condenser.training.stopping import StopOnSignal
from tests.runs import PHASES, assert_identical, log_of, make_base, read
from tests.short_run import reached, start, wait

CODES = {signal.SIGTERM: 143, signal.SIGINT: 130}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return make_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def undisturbed(base, tmp_path_factory):
    """The folder of a run in so many processes."""
    made = {}

    def run(processes):
        if processes not in made:
            made[processes] = tmp_path_factory.mktemp("undisturbed") / f"run{processes}"
            assert wait(start(base, made[processes], processes)) == [0] * processes
        return made[processes]

    return run


def resumed(base, folder, processes=1):
    assert wait(start(base, folder, processes, resume="true")) == [0] * processes
    return folder


class Control:
    should_save = False


@pytest.mark.parametrize("number", CODES)
def test_a_signal_is_a_checkpoint_and_an_exit_status(number):
    before = signal.getsignal(number)
    control, seen = Control(), []
    stop = StopOnSignal(torch.device("cpu"))
    with pytest.raises((SystemExit, KeyboardInterrupt)) as found, stop:  # noqa: PT012 - a training in small
        stop.on_step_end(None, None, control)
        stop.on_save(None, None, control)
        assert not control.should_save, "control"
        os.kill(os.getpid(), number)
        stop.on_save(None, None, control)
        seen.append("a checkpoint that began before it does not count")
        os.kill(os.getpid(), number)
        seen.append("a terminal and a launcher both send it")
        stop.on_step_end(None, None, control)
        assert control.should_save
        stop.on_save(None, None, control)
        pytest.fail("it went on")
    assert len(seen) == 2
    assert getattr(found.value, "code", 130) == CODES[number]
    assert signal.getsignal(number) == before


def test_the_same_signal_a_second_later_ends_at_once(monkeypatch):
    monkeypatch.setattr("expert_condenser.training.stopping._AGAIN", 0.0)
    with pytest.raises(SystemExit, match="143"), StopOnSignal(torch.device("cpu")):  # noqa: PT012
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)  # another one is not the same again
        time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)
        pytest.fail("it went on")


def test_a_signal_behind_the_last_step_ends_the_run_when_the_phase_is_done():
    done = []
    with pytest.raises(SystemExit, match="143"), StopOnSignal(torch.device("cpu")):  # noqa: PT012
        os.kill(os.getpid(), signal.SIGTERM)
        done.append("closed")
    assert done


def test_a_signal_that_is_ignored_stays_so():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with StopOnSignal(torch.device("cpu")):
            os.kill(os.getpid(), signal.SIGINT)
            assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_training_in_a_thread_leaves_signals_alone():
    before, inside = signal.getsignal(signal.SIGTERM), []

    def train():
        with StopOnSignal(torch.device("cpu")):
            inside.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=train)
    thread.start()
    thread.join()
    assert inside == [before]


@pytest.mark.parametrize(
    ("error", "named"),
    [
        (RuntimeError("[../gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:1"), True),
        (torch.distributed.DistBackendError("ncclRemoteError"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("Connection closed by peer"), False),
    ],
)
def test_only_what_torch_says_of_a_lost_process_is_one(error, named):
    with pytest.raises(FailedRunError if named else type(error)) as found, lost_process_named(1800):
        raise error
    assert ("did not answer for 1800 s" in str(found.value)) == named


@pytest.mark.parametrize("lost", [True, False])
def test_an_error_of_ours_that_comes_of_a_lost_process_blames_nothing_else(lost):
    """Trainers are made, and checkpoints read, in step with all processes."""
    said = "pair.cc:553] Connection closed by peer" if lost else "a bad value"
    kind = FailedRunError if lost else TrainingError
    with pytest.raises(kind, match=re.escape(said)) as found, lost_process_named(1800), refusals_named():
        raise RuntimeError(said)
    assert ("options" in str(found.value)) is not lost


def test_a_full_disk_says_how_much_is_missing(tmp_path):
    error = OSError(28, "No space left on device")
    with (
        pytest.raises(StorageError, match="at least 1,234 bytes are missing, "),
        full_disk_named(tmp_path, lambda: 1234),
    ):
        raise RuntimeError(str(error))


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("number", CODES)
def test_a_signal_is_saved_and_a_resume_goes_on(base, undisturbed, tmp_path, processes, number):
    """The signal goes to the last process alone, between two steps that would be saved."""
    folder = tmp_path / "run"
    running = start(base, folder, processes, pace=1.0)
    reached(folder, "condense", 2)
    running[-1].send_signal(number)
    assert wait(running) == [CODES[number]] * processes
    assert not (folder / LOCK).exists()
    saved = sorted(path.name for path in (folder / "condense").glob("*-*"))
    assert saved == [f"checkpoint-{step}" for step in range(1, 1 + len(saved))]
    assert len(saved) in (3, 4), "the step at hand is the last"
    assert_identical(resumed(base, folder, processes), undisturbed(processes))


@pytest.mark.slow
@pytest.mark.parametrize("lost", [0, 1])
def test_a_process_that_dies_takes_the_others_along(base, undisturbed, tmp_path, lost):
    folder = tmp_path / "run"
    running = start(base, folder, 2, pace=0.3, output=tmp_path)
    reached(folder, "sparsify", 2)
    running[lost].kill()
    codes = wait(running, timeout=60)
    assert codes[lost] == -signal.SIGKILL
    assert codes[1 - lost] == 1
    assert "every process of a run takes part" in (tmp_path / f"run-{1 - lost}.txt").read_text()
    assert_identical(resumed(base, folder, 2), undisturbed(2))


def test_processes_end_together(base, undisturbed, tmp_path):
    """One that went first, here by seconds, closed its sockets under a thread of another, which may abort."""
    folder = tmp_path / "run"
    running = start(base, folder, 2, linger=5)
    while not ((folder / "run.json").exists() and json.loads((folder / "run.json").read_text())["finished"]):
        assert running[0].poll() is None
        time.sleep(0.05)
    time.sleep(2)
    assert [process.poll() for process in running] == [None, None]
    assert wait(running) == [0, 0]
    assert_identical(folder, undisturbed(2))


@pytest.mark.slow
def test_a_process_that_hangs_ends_the_others_after_a_while(base, tmp_path):
    folder = tmp_path / "run"
    running = start(base, folder, 2, pace=0.3, output=tmp_path, ddp_timeout=15)
    reached(folder, "sparsify", 2)
    running[1].send_signal(signal.SIGSTOP)
    try:
        assert wait(running[:1], timeout=60) == [1]
        assert "did not answer for 15 s" in (tmp_path / "run-0.txt").read_text()
    finally:
        running[1].kill()
        running[1].wait()


@pytest.mark.slow
def test_a_loss_that_is_not_finite_in_one_process_stops_both(base, undisturbed, tmp_path):
    """At the step that had it, before any weight is touched: the last checkpoint is kept."""
    folder = tmp_path / "run"
    assert wait(start(base, folder, 2, nan_at=3, output=tmp_path), timeout=60) == [1, 1]
    said = [(tmp_path / f"run-{rank}.txt").read_text() for rank in range(2)]
    assert "the loss is not finite in another process at step 3" in said[0]
    assert "the loss is nan at step 3" in said[1]
    assert sorted(path.name for path in (folder / "sparsify").glob("*-*")) == ["checkpoint-1", "checkpoint-2"]
    assert_identical(resumed(base, folder, 2), undisturbed(2))


@pytest.mark.slow
def test_controls_of_equality(base, undisturbed, tmp_path):
    """Another seed is another run, so that what is called identical above could differ."""
    assert read(undisturbed(1) / "run.json")["finished"]
    entries = [json.loads(line) for line in (undisturbed(1) / "metrics.jsonl").read_text().splitlines()]
    assert {entry["phase"] for entry in entries} == {*PHASES}
    assert len(log_of(undisturbed(1))) == 8
    folder = tmp_path / "other"
    assert wait(start(base, folder, seed=7)) == [0]
    with pytest.raises(AssertionError):
        assert_identical(folder, undisturbed(1))
