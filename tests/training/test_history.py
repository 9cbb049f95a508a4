"""The usage history: counts and bias of every logged interval, whole on the disk while the training runs."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from expert_condenser.errors import DataError
from expert_condenser.training import history as module
from expert_condenser.training.history import USAGE_HISTORY, UsageHistory
from tests.runs import GAMMA1, PHASES, STEPS, assert_identical, config, interrupted, make_base, train

COUNTS, BIAS = torch.tensor([[3, 0, 1], [2, 2, 0]]), torch.tensor([[0.1, -0.1, 0.0], [0.0, 0.1, -0.1]])


def filled(intervals, bias=BIAS):
    history = UsageHistory()
    for number in range(1, intervals + 1):
        history.add(10 * number, COUNTS * number, None if bias is None else bias * number)
    return history


def test_a_history_reads_as_it_was_written(tmp_path):
    filled(2).write(tmp_path)
    found = UsageHistory.read(tmp_path / USAGE_HISTORY)
    assert found.steps == [10, 20]
    assert torch.equal(torch.stack(found.counts), torch.stack([COUNTS, COUNTS * 2]))
    assert torch.equal(torch.stack(found.biases), torch.stack([BIAS, BIAS * 2]))
    assert not torch.equal(found.biases[0], found.biases[1]), "control"
    assert [path.name for path in tmp_path.iterdir()] == [USAGE_HISTORY]


def test_nothing_is_written_of_nothing(tmp_path):
    UsageHistory().write(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_history_of_version_1_has_no_bias_until_it_goes_on(tmp_path):
    save_file({"step": torch.tensor([10]), "counts": COUNTS[None]}, tmp_path / USAGE_HISTORY)
    found = UsageHistory.read(tmp_path / USAGE_HISTORY)
    assert found.biases == [None]
    found.add(20, COUNTS, BIAS)
    found.write(tmp_path)
    bias = load_file(tmp_path / USAGE_HISTORY)["bias"]
    assert bias[0].isnan().all()
    assert torch.equal(bias[1], BIAS)


@pytest.mark.parametrize(
    ("metadata", "tensors", "message"),
    [
        ({"format_version": "3"}, {"step": torch.tensor([1]), "counts": COUNTS[None]}, "format_version 3"),
        ({}, {"counts": COUNTS[None]}, "is a usage history"),
        ({}, {"step": torch.tensor([1, 2]), "counts": COUNTS[None]}, "is a usage history"),
    ],
)
def test_another_file_is_refused(metadata, tensors, message, tmp_path):
    save_file(tensors, tmp_path / "x.safetensors", metadata=metadata)
    with pytest.raises(DataError, match=message):
        UsageHistory.read(tmp_path / "x.safetensors")


def test_a_growing_file_is_written_at_a_cost_that_grows_as_it_does(tmp_path, monkeypatch):
    """By 640 intervals, each of the first 64 and then one of up to ten: not all 640."""
    written = []
    monkeypatch.setattr(UsageHistory, "write", lambda self, folder: written.append(len(self.steps)))
    history = UsageHistory()
    for number in range(1, 641):
        history.add(number, COUNTS, None)
        history.follow(tmp_path)
    assert written[:64] == list(range(1, 65))
    assert 64 < len(written) < 64 * 5
    assert 640 - written[-1] <= 640 // module._LAG


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return make_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def finished(base, tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished") / "run"
    train(config(base, folder))
    return folder


def test_a_run_records_the_bias_of_every_interval(finished):
    first = load_file(finished / "sparsify" / "final" / USAGE_HISTORY)
    assert first["bias"].shape == (STEPS, 3, 8)
    mean = first["counts"].double().mean(-1, keepdim=True)
    expected = GAMMA1 * torch.sign(first["counts"] - mean).cumsum(0)
    torch.testing.assert_close(first["bias"].double(), expected, atol=1e-7, rtol=0)
    assert first["bias"].abs().max() > 0, "control"
    for phase in PHASES:
        live, final = (load_file(place / USAGE_HISTORY) for place in (finished / phase, finished / phase / "final"))
        assert all(torch.equal(live[name], final[name]) for name in ("step", "counts", "bias"))


def test_the_file_grows_while_the_run_trains_and_forgets_what_a_resume_repeats(base, finished, tmp_path):
    options = {"save_steps": 2.0}
    interrupted(base, tmp_path / "run", "sparsify", "on_step_begin", 3, **options)
    live = load_file(tmp_path / "run" / "sparsify" / USAGE_HISTORY)
    assert live["step"].tolist() == [1, 2, 3], "one more than the checkpoint has"
    train(config(base, tmp_path / "run", resume=True, **options))
    assert_identical(tmp_path / "run", finished)
    whole = load_file(finished / "sparsify" / USAGE_HISTORY)
    assert torch.equal(load_file(tmp_path / "run" / "sparsify" / USAGE_HISTORY)["counts"], whole["counts"])
    assert torch.equal(live["counts"], whole["counts"][:3])
