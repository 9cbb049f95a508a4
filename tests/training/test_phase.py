"""The order of the rows in each phase: by the seed, or by `data_seed` where that is set. Who reads a checkpoint."""

import pytest
from transformers import TrainerState

from expert_condenser import moe_layers
from expert_condenser.checkpoint.load import load_model
from expert_condenser.training.folder import RunFolder
from expert_condenser.training.phase import make_trainer, state_of
from expert_condenser.training.rows import load_rows_of
from tests.runs import config, make_base


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return make_base(tmp_path_factory.mktemp("base"))


@pytest.fixture
def orders(base, tmp_path_factory):
    """`orders(method=..., ...)`: the rows of every epoch of a run of two epochs in their order, without training."""
    model = load_model(base / "model")

    def read(**options):
        recipe = config(
            base, tmp_path_factory.mktemp("run"), num_train_epochs=2.0, per_device_train_batch_size=1, **options
        )
        folder, found = RunFolder(recipe), []
        for phase in recipe.phases:
            method = recipe.new_method(phase)
            method.layers = moe_layers(model)
            trainer = make_trainer(folder, load_rows_of(recipe), method, model, [])
            loader = trainer.get_train_dataloader()
            for epoch in range(2 // len(recipe.phases)):
                loader.set_epoch(epoch)
                found.append([tuple(batch["labels"].flatten().tolist()) for batch in loader])
        return found

    return read


@pytest.mark.parametrize("grouped", [False, True])
def test_data_seed_decides_the_order_in_both_phases(orders, grouped):
    by_length = {"train_sampling_strategy": "group_by_length"} if grouped else {}
    first, second = orders(seed=1, data_seed=7, **by_length)
    assert sorted(first) == sorted(second)
    assert first != second, "the second phase does not repeat the order of the first"
    assert orders(seed=2, data_seed=7, **by_length) == [first, second], "whatever the seed"
    other = orders(seed=1, data_seed=9, **by_length)
    assert (other[0] != first, other[1] != second) == (True, True), "control"


def test_a_method_of_one_phase_sees_the_same_rows_in_the_same_order(orders):
    assert orders(method="sft", data_seed=7) == orders(data_seed=7) == orders(seed=3, data_seed=7)
    assert orders(method="sft", data_seed=8) != orders(data_seed=7), "control"


@pytest.mark.parametrize("main", [True, False])
def test_the_state_of_a_checkpoint_knows_which_process_reads_it(tmp_path, main):
    """The main process wrote it; one file that two processes write at once is lost to both."""
    TrainerState(global_step=3).save_to_json(str(tmp_path / "trainer_state.json"))
    state = state_of(tmp_path, main=main)
    assert (state.is_world_process_zero, state.global_step) == (main, 3)
