"""Trains, loads, is silent, stopped, finished, has not begun: each from its own files, and the pace."""

import os
import time

import pytest

from expert_condenser.ownership import LOCK
from expert_condenser.training.record import METRICS, RUN
from expert_condenser.watch.look import Watcher
from expert_condenser.watch.pace import Pace, duration
from expert_condenser.watch.run_files import read_run
from expert_condenser.watch.standing import State, is_owned, standing_of
from tests.watch.folders import make_run, own

NOW = time.time()


def state(folder, **options):
    return standing_of(read_run(folder), **options).state


def test_a_finished_run_names_its_result(tmp_path):
    standing = standing_of(read_run(make_run(tmp_path, finished=True)))
    assert standing.state is State.FINISHED
    assert standing.text == f"finished; the result is {tmp_path / 'model'}"


def test_a_finished_run_that_is_overwritten_loads_and_one_that_is_evaluated_does_not(tmp_path):
    own(make_run(tmp_path, finished=True))
    at(tmp_path, RUN, -10)
    assert state(tmp_path) is State.LOADING
    at(tmp_path, RUN, 10_000)
    assert state(tmp_path) is State.FINISHED


def test_a_run_whose_process_lives_trains_and_one_without_has_stopped(tmp_path):
    make_run(tmp_path)
    assert state(tmp_path) is State.STOPPED
    assert "stopped at step 20" in standing_of(read_run(tmp_path)).text
    assert state(own(tmp_path)) is State.TRAINING
    assert state(own(tmp_path, started="another boot")) is State.STOPPED
    assert not is_owned(tmp_path)


def test_a_process_of_another_machine_cannot_be_seen_and_is_believed(tmp_path):
    make_run(tmp_path)
    standing = standing_of(read_run(own(tmp_path, host="elsewhere")))
    assert standing.state is State.TRAINING
    assert "cannot be seen from here" in standing.text
    assert is_owned(tmp_path)


def test_a_lock_that_is_being_written_is_one(tmp_path):
    make_run(tmp_path)
    (tmp_path / LOCK).write_text("")
    assert state(tmp_path) is State.TRAINING
    assert is_owned(tmp_path)


def test_what_has_not_begun_and_what_loads(tmp_path):
    assert state(tmp_path / "none") is State.NOT_BEGUN
    assert state(own(tmp_path / "new")) is State.LOADING
    assert state(own(make_run(tmp_path / "begun", steps=()))) is State.LOADING


def test_a_run_that_writes_nothing_is_silent_by_its_own_measure(tmp_path):
    own(make_run(tmp_path))
    assert state(tmp_path, clock=lambda: time.time() + 50) is State.TRAINING
    later = standing_of(read_run(tmp_path), clock=lambda: time.time() + 120)
    assert later.state is State.SILENT
    assert later.text.startswith("silent for 2 min")
    slow = standing_of(read_run(tmp_path), usual=30.0, clock=lambda: time.time() + 120)
    assert slow.state is State.TRAINING, "it logs twice a minute"
    (tmp_path / "train" / "checkpoint-20").mkdir()
    os.utime(tmp_path / "train" / "checkpoint-20", (NOW + 100, NOW + 100))
    assert state(tmp_path, clock=lambda: NOW + 120) is State.TRAINING, "a checkpoint is a sign"


def at(folder, name, seconds):
    os.utime(folder / name, (NOW + seconds, NOW + seconds))


def test_the_pace_of_a_first_look_is_that_since_the_phase_began(tmp_path):
    own(make_run(tmp_path), since="2020-01-01T00:00:00+00:00")
    at(tmp_path, RUN, 0)
    at(tmp_path, METRICS, 10)
    look = Watcher(tmp_path).look()
    assert (look.pace, look.left) == (pytest.approx(2.0), pytest.approx(10.0)), "20 steps in 10 s, 20 are left"
    assert look.speed() == ["2.00 steps/s", "left: 10 s"]


def test_a_run_that_was_resumed_has_no_pace_until_it_is_seen(tmp_path):
    make_run(tmp_path)
    own(tmp_path)
    at(tmp_path, RUN, -1000)
    at(tmp_path, METRICS, 0)
    pace = Pace()
    pace.see(read_run(tmp_path))
    assert pace.per_second() is None
    with (tmp_path / METRICS).open("a") as file:
        file.write('{"phase": "train", "step": 30, "loss": 1.0}\n')
    at(tmp_path, METRICS, 60)
    pace.see(read_run(tmp_path))
    assert pace.per_second() == pytest.approx(10 / 60)


def test_a_run_that_goes_back_begins_a_new_pace(tmp_path):
    own(make_run(tmp_path), since="2020-01-01T00:00:00+00:00")
    at(tmp_path, METRICS, 0)
    pace = Pace()
    pace.see(read_run(tmp_path))
    text = (tmp_path / METRICS).read_text().splitlines(keepends=True)
    (tmp_path / METRICS).write_text(text[0])
    at(tmp_path, RUN, 50)
    at(tmp_path, METRICS, 60)
    pace.see(read_run(tmp_path))
    assert pace.per_second() == pytest.approx(1.0), "10 steps in the 10 s of its new beginning"


@pytest.mark.parametrize(
    ("seconds", "text"), [(42.4, "42 s"), (99.0, "99 s"), (120.0, "2 min"), (5940.0, "99 min"), (12000.0, "3 h 20 min")]
)
def test_durations(seconds, text):
    assert duration(seconds) == text
