"""One run from recipe to model: every phase of a method, each a TRL training, resumable at any step."""

from collections.abc import Sequence
from pathlib import Path

from transformers import TrainerCallback

from expert_condenser.files import full_disk_named
from expert_condenser.ownership import ending_on_sigterm
from expert_condenser.training.engines.support import check_support
from expert_condenser.training.folder import RunFolder
from expert_condenser.training.lost_process import lost_process_named
from expert_condenser.training.model import prepare_base, prepare_phase
from expert_condenser.training.phase import train_phase
from expert_condenser.training.publish import publish
from expert_condenser.training.recipe import Recipe
from expert_condenser.training.rows import load_rows_of
from expert_condenser.training.space import check_space


def train(recipe: Recipe, callbacks: Sequence[TrainerCallback] = ()) -> Path:
    """Run a recipe; returns the directory of the finished model. `callbacks` see every phase.

    What can be checked is checked before anything is written, and an earlier run that it overwrites is deleted when it
    has taken its first step. A resumed run trains the phases that are not done, from their newest checkpoint.
    """
    recipe.phase_length()
    check_support(recipe)
    lost = lost_process_named(recipe.trainer.ddp_timeout)
    with ending_on_sigterm(), lost, full_disk_named(Path(recipe.trainer.output_dir)), RunFolder(recipe) as folder:
        recipe = folder.recipe
        rows = load_rows_of(recipe, folder.date)
        folder.check_rows(rows.report)
        prepared = None if recipe.run.resume else prepare_base(recipe, rows)
        if prepared is not None:
            check_space(recipe, prepared.model)
        folder.open(rows.report, prepared.method.state_dict() if prepared is not None else None)
        for phase in recipe.phases:
            if not folder.is_done(phase):
                train_phase(folder, rows, prepared or prepare_phase(recipe, rows, folder, phase), callbacks)
            prepared = None
        return publish(folder, rows)
