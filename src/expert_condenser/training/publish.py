"""The result of a run: the last phase's weights as a model that says how to load it and how it was made."""

import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from expert_condenser.checkpoint.card import CARD, is_own
from expert_condenser.checkpoint.describe import copy_model, describe_model, save_model
from expert_condenser.checkpoint.generation import make_savable
from expert_condenser.checkpoint.load import load_model, resolve_model
from expert_condenser.errors import TrainingError
from expert_condenser.files import move_into
from expert_condenser.training.engines.deepspeed import loading_whole
from expert_condenser.training.folder import RunFolder
from expert_condenser.training.model import dtype_of
from expert_condenser.training.rows import TrainingRows

MERGE_TOLERANCE = 1e-3
"""Largest difference of any logit that merging an adapter may make, relative to the largest logit, in float32."""
_PROVENANCE = ("method", "versions", "git_commit", "config", "phases")


def publish(folder: RunFolder, rows: TrainingRows) -> Path:
    """Write `model/` (and `adapter/`), and close `run.json`; copying files works for sharded models too."""
    recipe, target = folder.recipe, folder.path / "model"
    if not folder.main:
        return target
    final, difference = folder.final(recipe.phases[-1]), None
    record = asdict(folder.record)
    provenance = {key: record[key] for key in _PROVENANCE}
    # Made beside it first: a full disk or a crash leaves a model that is there already whole.
    made = folder.path / ".publishing"
    shutil.rmtree(made, ignore_errors=True)
    if recipe.adapter.lora is None:
        copy_model(final, made / "model")
        describe_model(made / "model", provenance)
    else:
        copy_model(final, made / "adapter")
        describe_model(made / "adapter", provenance)
        _keep_cards(made, folder.path)
        move_into(made, folder.path)  # whatever comes of the merging
        with loading_whole(recipe.trainer):  # in this process alone
            model, difference = merge_checked(load_model(final))
        dtype = dtype_of(recipe.run.dtype, resolve_model(recipe.run.model))
        model.generation_config.eos_token_id = rows.stops if rows.stops[1:] else rows.stops[0]
        make_savable(model)
        save_model(model, rows.tokenizer, made / "model", provenance, dtype)
    _keep_cards(made, folder.path)
    move_into(made, folder.path)
    folder.note(replace(folder.record.closed(), merge_difference=difference))
    return target


def _keep_cards(made: Path, target: Path) -> None:
    """A card that somebody wrote beside an earlier result stays."""
    for card in made.glob(f"*/{CARD}"):
        there = target / card.relative_to(made)
        if there.exists() and not is_own(there):
            card.unlink()


@torch.no_grad()
def merge_checked(model: Any) -> tuple[Any, float]:
    """A float32 model with its adapter merged, and the largest relative difference that this made to a logit.

    Raises `TrainingError` above `MERGE_TOLERANCE`.
    """
    vocabulary = model.config.get_text_config().vocab_size
    ids = torch.arange(64, device=model.device).view(2, 32) * 7919 % vocabulary
    before = model.eval()(input_ids=ids).logits.float()
    merged = model.merge_and_unload()
    after = merged.eval()(input_ids=ids).logits.float()
    difference = ((after - before).abs().max() / before.abs().max()).item()
    if not difference <= MERGE_TOLERANCE:
        raise TrainingError(
            f"a merged adapter computes what it computed before; the logits differ by {difference:.1e} of the largest. "
            "The adapter itself is whole."
        )
    return merged, difference
