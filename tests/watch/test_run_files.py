"""What is read of a run while it writes: whole lines and files, and the rest is left out and named."""

import json

import pytest
import torch

from expert_condenser.training.history import USAGE_HISTORY
from expert_condenser.training.record import METRICS, RUN
from expert_condenser.watch.look import Watcher
from expert_condenser.watch.run_files import CONDENSERS, read_run, stamps
from tests.watch.folders import BIAS, COUNTS, make_run


def test_the_log_counts_steps_over_both_phases(tmp_path):
    files = read_run(make_run(tmp_path, phases=("sparsify", "condense")))
    assert files.steps == [10, 20, 30, 40]
    assert files.phases == {"sparsify": 0, "condense": 20}
    assert (files.phase, files.step, files.total_steps()) == ("condense", 40, 40)
    assert files.curve("nll") == [0.4, 0.2, 0.4, 0.2]
    assert files.points("nll") == [(10, 0.4), (20, 0.2), (30, 0.4), (40, 0.2)]
    assert files.curve("eval_nll") == files.curve("phase") == [], "not logged, and no number"
    assert files.unreadable == []


def test_the_usage_is_that_of_the_last_interval(tmp_path):
    usage = read_run(make_run(tmp_path, phases=("sparsify", "condense"))).usage
    assert usage.step == 40, "steps of both phases, as in the log"
    assert torch.equal(usage.counts, 20 * COUNTS)
    assert torch.equal(usage.bias, BIAS)
    assert read_run(make_run(tmp_path / "plain", bias=None)).usage.bias is None


def test_the_total_comes_from_the_epochs_where_no_steps_were_asked_for(tmp_path):
    assert read_run(make_run(tmp_path, max_steps=-1)).total_steps() == 200, "20 steps are .2 of two epochs"
    assert read_run(make_run(tmp_path / "b", max_steps=-1, num_train_epochs=3)).total_steps() == 300
    assert read_run(make_run(tmp_path / "c", steps=(), max_steps=-1)).total_steps() is None


def test_condensers_are_marked_by_layer(tmp_path):
    make_run(tmp_path)
    assert read_run(tmp_path).condensers == {}
    layers = [{"layer": 0, "condensers": [2, 1]}, {"layer": 1, "condensers": []}]
    (tmp_path / CONDENSERS).write_text(json.dumps({"layers": layers}))
    assert read_run(tmp_path).condensers == {0: [2, 1], 1: []}


def test_a_line_that_is_being_written_is_no_fault(tmp_path):
    make_run(tmp_path)
    with (tmp_path / METRICS).open("a") as file:
        file.write('{"phase": "train", "step": 30, "loss": 1.')
    files = read_run(tmp_path)
    assert (files.steps, files.unreadable) == ([10, 20], [])
    with (tmp_path / METRICS).open("a") as file:
        file.write("0}\n")
    assert read_run(tmp_path).steps == [10, 20, 30]


@pytest.mark.parametrize("line", ["no JSON", "[1]", "{}", '{"phase": "train", "step": "x", "loss": 1}', "\x00\ufffd"])
def test_a_line_that_is_none_is_left_out_and_counted(tmp_path, line):
    make_run(tmp_path)
    path = tmp_path / METRICS
    path.write_text(f"{line}\n{path.read_text()}")
    files = read_run(tmp_path)
    assert files.steps == [10, 20]
    assert files.unreadable == [f"{METRICS}: 1 of 3 lines are no log entries, and are left out"]


@pytest.mark.parametrize("name", [RUN, f"train/{USAGE_HISTORY}", CONDENSERS])
def test_a_torn_file_is_named_and_the_rest_is_read(tmp_path, name):
    make_run(tmp_path)
    (tmp_path / CONDENSERS).write_text('{"layers": []}')
    whole = read_run(tmp_path)
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(content[: len(content) // 2])
    files = read_run(tmp_path)
    assert files.steps == whole.steps
    assert len(files.unreadable) == 1
    assert name.rpartition("/")[2] in files.unreadable[0]
    assert (files.record is None, files.usage is None) == (name == RUN, name.endswith(USAGE_HISTORY))


def test_a_run_that_is_not_there_is_empty(tmp_path):
    files = read_run(tmp_path / "none")
    assert (files.record, files.steps, files.usage, files.unreadable, files.step) == (None, [], None, [], 0)


def test_files_are_read_again_only_when_one_was_written(tmp_path):
    watcher = Watcher(make_run(tmp_path))
    first, before = watcher.look().files, stamps(tmp_path)
    assert watcher.look().files is first
    with (tmp_path / METRICS).open("a") as file:
        file.write('{"phase": "train", "step": 30, "loss": 1.0}\n')
    assert stamps(tmp_path) != before
    assert watcher.look().files.step == 30
