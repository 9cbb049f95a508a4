"""One process works in a folder; a dead one does not keep it, and what cannot be seen from here is not taken."""

import json
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import asdict, replace

import pytest

from expert_condenser import ownership
from expert_condenser.errors import FolderError
from expert_condenser.ownership import LOCK, Lock, Owner, ending_on_sigterm, start_of, wait_for_end


@pytest.fixture
def other_process():
    """The owner that a process is which lives until the end of the test."""
    process = subprocess.Popen(["sleep", "60"])
    yield replace(Owner.here("train"), pid=process.pid, started=start_of(process.pid))
    process.kill()
    process.wait()


def leave(folder, owner):
    (folder / LOCK).write_text(json.dumps(asdict(owner)))


def test_a_lock_names_its_process_and_goes_at_the_end(tmp_path):
    with Lock(tmp_path, "train"):
        owner = Owner.read(tmp_path / LOCK)
        assert (owner.what, owner.host, owner.pid) == ("train", socket.gethostname(), os.getpid())
        assert owner.is_alive() is True
    with pytest.raises(RuntimeError), Lock(tmp_path, "train"):
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_a_second_owner_is_refused_and_told_who_and_since_when(tmp_path, other_process):
    leave(tmp_path, other_process)
    where = rf"`train`, process {other_process.pid} on {socket.gethostname()}, since {other_process.since[:10]}"
    with pytest.raises(FolderError, match=where), Lock(tmp_path, "study"):
        pass
    assert Owner.read(tmp_path / LOCK) == other_process, "the refused one removes nothing"


@pytest.mark.parametrize("changes", [{"pid": 2**22 + 1}, {"started": "another boot 1"}])
def test_the_lock_of_a_dead_process_is_taken_over(tmp_path, other_process, changes, caplog):
    """Its id is of no process, or of a later one."""
    leave(tmp_path, replace(other_process, **changes))
    with caplog.at_level(logging.WARNING), Lock(tmp_path, "train"):
        assert Owner.read(tmp_path / LOCK).pid == os.getpid()
    assert "is taken over; that process is gone" in caplog.text


def test_a_process_that_is_dead_and_not_yet_collected_is_dead(tmp_path):
    process = subprocess.Popen(["true"])
    while start_of(process.pid) is not None:
        time.sleep(0.01)
    assert process.poll() == 0


@pytest.mark.parametrize("changes", [{"host": "elsewhere"}, {"namespace": "pid:[1]"}])
def test_a_lock_of_another_machine_or_container_is_refused_with_what_to_do(tmp_path, other_process, changes):
    leave(tmp_path, replace(other_process, pid=2**22 + 1, **changes))
    with pytest.raises(FolderError, match=rf"cannot be seen from here; when you are sure .* delete the file {LOCK}"):
        Lock(tmp_path, "train").__enter__()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"pid": 1}'])
def test_a_lock_that_names_nobody_is_refused(tmp_path, text):
    (tmp_path / LOCK).write_text(text)
    with pytest.raises(FolderError, match=r"is locked, and .* delete the file"):
        Lock(tmp_path, "train").__enter__()
    assert (tmp_path / LOCK).read_text() == text


def test_of_many_processes_that_find_a_dead_lock_one_takes_it(tmp_path, other_process):
    leave(tmp_path, replace(other_process, pid=2**22 + 1))
    code = "import sys, time\nfrom pathlib import Path\nfrom expert_condenser.ownership import Lock\n"
    code += "Lock(Path(sys.argv[1]), 'train').__enter__()\ntime.sleep(3)"
    command = [sys.executable, "-c", code, str(tmp_path)]
    started = [subprocess.Popen(command, stderr=subprocess.DEVNULL) for _ in range(4)]
    assert sorted(process.wait() for process in started) == [0, 1, 1, 1]


def test_without_proc_the_start_is_asked_of_ps():
    found = ownership._start_by_ps(os.getpid())
    assert found == ownership._start_by_ps(os.getpid())
    assert str(time.localtime().tm_year) in found
    assert ownership._start_by_ps(2**22 + 1) is None


def test_sigterm_leaves_the_blocks_and_the_handler_is_put_back(tmp_path):
    def work():
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(1)

    with pytest.raises(SystemExit) as caught, ending_on_sigterm(), Lock(tmp_path, "train"):
        work()
    assert caught.value.code == 143
    assert not (tmp_path / LOCK).exists()
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_a_handler_that_somebody_set_stays():
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with ending_on_sigterm():
            assert signal.getsignal(signal.SIGTERM) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, before)


def test_the_end_of_another_is_waited_for_and_not_for_ever(tmp_path):
    other = subprocess.Popen(["sleep", "60"])
    owner = {**vars(Owner.here("train")), "pid": other.pid, "started": start_of(other.pid)}
    (tmp_path / LOCK).write_text(json.dumps(owner))
    start = time.monotonic()
    wait_for_end(tmp_path, 0.3)
    assert time.monotonic() - start >= 0.3
    other.kill()
    other.wait()
    start = time.monotonic()
    wait_for_end(tmp_path, 60.0)
    wait_for_end(tmp_path / "none", 60.0)
    assert time.monotonic() - start < 5
