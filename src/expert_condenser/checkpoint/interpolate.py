"""Between a base and what was tuned from it, without training: WiSE-FT (arXiv 2109.01903).

theta(alpha) = (1 - alpha) theta_base + alpha theta_tuned
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor

from expert_condenser.checkpoint.describe import save_model
from expert_condenser.checkpoint.generation import make_savable
from expert_condenser.checkpoint.load import load_model, load_tokenizer, resolve_model
from expert_condenser.errors import CheckpointError
from expert_condenser.moe.recycled import GATES
from expert_condenser.moe.state import BIAS, IDS

_ZERO_IN_A_BASE = (BIAS, *GATES)
"""What a tuned model has besides its base: 0 there. The condensers (`IDS`) are no numbers, and stay the tuned ones."""


def interpolate(base: Mapping[str, Tensor], tuned: Mapping[str, Tensor], alpha: float) -> dict[str, Tensor]:
    """The tensors between those of a base (alpha 0) and of the tuned model (alpha 1), each in the tuned one's dtype.

    They are summed in float32 at least. A selection bias and recycled gates are 0 in the base, and scaled by alpha;
    condensers are those of the tuned model at every alpha, so that with them alpha 0 is not the base. At alpha 1 the
    tensors are the tuned ones, to the bit, as at alpha 0 the base's. Raises `CheckpointError` where alpha is no share,
    or the models are not of one shape.
    """
    if not 0 <= alpha <= 1:
        raise CheckpointError(f"alpha is the share of the tuned model, 0 to 1; got {alpha}")
    own = {name for name in tuned if name.rpartition(".")[2] in (IDS, *_ZERO_IN_A_BASE)}
    strange = sorted((tuned.keys() - own) ^ (base.keys() - own))
    strange += [name for name in sorted(tuned.keys() & base.keys() - own) if tuned[name].shape != base[name].shape]
    if strange:
        raise CheckpointError(
            f"weights lie between a model and the base that it was tuned from; these differ in {', '.join(strange[:4])}"
        )
    return {name: _between(name, base.get(name), value, alpha) for name, value in tuned.items()}


def _between(name: str, base: Tensor | None, tuned: Tensor, alpha: float) -> Tensor:
    if name.rpartition(".")[2] == IDS or not tuned.is_floating_point():
        return tuned.clone()
    exact = torch.promote_types(tuned.dtype, torch.float32)
    start = torch.zeros_like(tuned, dtype=exact) if base is None else base.to(tuned.device, exact)
    return torch.lerp(start, tuned.to(exact), alpha).to(tuned.dtype)


def save_interpolated(base: str, tuned: str, alpha: float, output_dir: Path) -> None:
    """Write the model at alpha from a base (a directory, a hub name, or an embedded one) to a tuned directory.

    Raises `CheckpointError` where the tuned one is an adapter, whose weights are no whole ones.
    """
    model = load_model(tuned)
    if isinstance(model, PeftModel):
        raise CheckpointError(f"whole weights are interpolated; {tuned} is an adapter: take the run's model/")
    move_towards(load_model(resolve_model(base)), model, alpha)
    make_savable(model)
    provenance = {"interpolated": {"base": base, "model": tuned, "alpha": alpha}}
    save_model(model, load_tokenizer(tuned), output_dir, provenance)


@torch.no_grad()
def move_towards(base: Any, tuned: Any, alpha: float) -> Any:
    """Give `tuned`, in place, the weights at alpha on the way from `base`; returns it."""
    tuned.load_state_dict(interpolate(base.state_dict(), tuned.state_dict(), alpha))
    return tuned
