"""The model of a run: loaded, with its adapter, calibrated on the data and prepared by its method."""

from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import Mxfp4Config

from expert_condenser.adapters.lora import add_adapter
from expert_condenser.checkpoint.config import read_config
from expert_condenser.checkpoint.describe import is_pruned
from expert_condenser.checkpoint.generation import make_savable
from expert_condenser.checkpoint.load import load_model, resolve_model
from expert_condenser.errors import TrainingError
from expert_condenser.methods import Method
from expert_condenser.moe.attachment import attachment_of
from expert_condenser.moe.experts import default_implementation
from expert_condenser.moe.layers import moe_layers
from expert_condenser.moe.own_types import CondenserModel
from expert_condenser.moe.parameters import count_trainable
from expert_condenser.training.auxiliary import check_auxiliary_gradient
from expert_condenser.training.calibrate import usage_on_rows
from expert_condenser.training.engines import expert_parallel
from expert_condenser.training.engines.deepspeed import loading_whole
from expert_condenser.training.engines.support import check_checkpoint
from expert_condenser.training.folder import RunFolder
from expert_condenser.training.method_state import restore_method
from expert_condenser.training.probe import batches_of_rows
from expert_condenser.training.recipe import Recipe
from expert_condenser.training.rows import TrainingRows


@dataclass(frozen=True)
class Prepared:
    """A model that is ready for a phase, by the method that prepared it; `checkpoint` is where a resumed one was."""

    method: Method
    model: Any
    checkpoint: Path | None = None


def prepare_base(recipe: Recipe, rows: TrainingRows) -> Prepared:
    """The base model for the first phase: all of its errors come before anything is written or deleted."""
    method = recipe.new_method()
    model = load_for_training(resolve_model(recipe.run.model), recipe, method, is_base=True)
    return _prepare(Prepared(method, model), recipe, rows)


def prepare_phase(recipe: Recipe, rows: TrainingRows, folder: RunFolder, phase: str) -> Prepared:
    """The model of a phase that goes on: from its newest checkpoint, from the phase before, or from the base."""
    checkpoint, method = folder.newest_checkpoint(phase), recipe.new_method(phase)
    if checkpoint is not None:
        check_checkpoint(checkpoint, recipe.trainer)
    source = checkpoint or folder.before(phase)
    state = folder.state_before(phase, checkpoint)
    if state is not None:
        restore_method(method, state, folder.state_file(phase, checkpoint))
    model = load_for_training(source or resolve_model(recipe.run.model), recipe, method, is_base=source is None)
    return _prepare(Prepared(method, model, checkpoint), recipe, rows)


def _prepare(prepared: Prepared, recipe: Recipe, rows: TrainingRows) -> Prepared:
    method, model = prepared.method, prepared.model
    if method.calibration_rows:
        model.to(recipe.device)
        method.calibrate(
            usage_on_rows(model, rows.tokenizer, rows.train, method.calibration_rows, recipe.trainer.max_length)
        )
    if method.probe_rows:
        model.to(recipe.device)
        length = recipe.trainer.max_length
        method.probe(model, batches_of_rows(rows.train, method.probe_rows, length, recipe.device))
    method.prepare(model)
    expert_parallel.begin_phase(model)
    if method.router_aux_loss_coef:
        check_auxiliary_gradient(model, method.layers)
    return prepared


def load_for_training(source: str | Path, recipe: Recipe, method: Method, *, is_base: bool) -> Any:
    """The model in `source`; of a base, with a new adapter where the recipe asks for one.

    Raises `TrainingError` where the base is a result of such a run, or is quantised.
    """
    run = recipe.run
    options = {
        "experts_implementation": run.experts_implementation or default_implementation(recipe.device.type),
        **{name: value for name in ("attn_implementation", "device_map") if (value := getattr(run, name)) is not None},
        **({"revision": run.revision} if is_base and run.revision is not None else {}),
        **(_dequantised(source, run.revision) if is_base else {}),
    }
    adapted = recipe.adapter.lora is not None
    if expert_parallel.is_asked():
        options |= expert_parallel.loading_options()
    with loading_whole(recipe.trainer) if adapted or method.whole_start else nullcontext():
        model = load_model(source, run.dtype, train=True, **options)
    make_savable(model)
    if (
        is_base
        and isinstance(model, CondenserModel | PeftModel)
        and not (method.keeps_routing and is_pruned(source) and not adapted and isinstance(model, CondenserModel))
    ):
        raise TrainingError(
            f"a run starts from a base model, and {source} is the result of one, with router state or an adapter; "
            "name its base, or --resume the run that made it"
        )
    if method.keeps_routing and isinstance(model, CondenserModel):
        method.kept = attachment_of(model).policy  # type: ignore[arg-type]  # a mixin, in front of a module
    if is_base and adapted:
        torch.manual_seed(recipe.trainer.seed)
        model = add_adapter(model, recipe.adapter, recipe.adapter_targets, method.routing)
    return model


def _dequantised(source: str | Path, revision: str | None) -> dict[str, Any]:
    """How a base that was saved quantised is loaded as weights that can train; none is trained as it is.

    transformers keeps quantised experts apart from the fused weights that routing, ESFT and adapters work on.
    """
    if Path(source).is_dir() and not (Path(source) / "config.json").exists():
        return {}  # an adapter, or nothing: loading says which
    try:
        config = read_config(source, **({} if revision is None else {"revision": revision}))
    except (OSError, ValueError):
        return {}  # what cannot be read is refused with the reason by the load
    found = getattr(config, "quantization_config", None)
    if found is None:
        return {}
    method = found.get("quant_method") if isinstance(found, dict) else found.quant_method
    if str(getattr(method, "value", method)) == "mxfp4":  # gpt-oss, which is published in no other form
        return {"quantization_config": Mxfp4Config(dequantize=True)}
    raise TrainingError(
        f"a run trains weights as they are, and {source} is quantised ({method}): PEFT cannot adapt quantised fused "
        "experts, and no optimizer can train them. Take its bfloat16 version."
    )


def dtype_of(name: str, path: str) -> torch.dtype:
    """The dtype that a recipe names; `auto` is that of the base model."""
    saved = read_config(path).get_text_config().dtype if name == "auto" else name
    dtype: torch.dtype = saved if isinstance(saved, torch.dtype) else getattr(torch, saved or "float32")
    return dtype


def trainable_counts(model: Any) -> dict[str, dict[str, int]]:
    """`{group: {"total", "trainable"}}` in numbers of parameters."""
    return {group: asdict(count) for group, count in count_trainable(model, moe_layers(model)).items()}
