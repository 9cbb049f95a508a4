"""Whether what `attach` adds would be saved with a model: one that reloads without its routing is refused before."""

from typing import Any

from torch import nn

from expert_condenser.errors import UnsupportedModelError
from expert_condenser.moe.layers import family_name
from expert_condenser.moe.own_types import CondenserModel, causal_lm, class_of, stock_class


def check_saveable(model: nn.Module) -> Any:
    """The model with a language head in `model`, which becomes one of our own type; it is saved with its routing.

    Raises `UnsupportedModelError` where there is none (a classifier, a reward model, a bare decoder), where it is of
    a class that ours would replace, and where an adapter is saved without the routers' state.
    """
    inner = causal_lm(model)
    if inner is None:
        raise UnsupportedModelError(
            f"the bias and the condensers are saved with a model with a language head; {type(model).__name__} "
            f"({family_name(model)}) has none, so it would be saved as what it is, and reloads without its routing. "
            "Take AutoModelForCausalLM; attach(model, None) counts in any model."
        )
    stock = stock_class(family_name(inner))
    if class_of(inner) is not stock and not isinstance(inner, CondenserModel):
        raise UnsupportedModelError(
            f"an attached {stock.__name__} becomes a class of ours; {type(inner).__name__} is derived from it, and "
            "what it changes would be lost. Attach the model before FSDP2 or another library gives it another class."
        )
    check_adapters(model)
    return inner


def check_adapters(model: nn.Module) -> None:
    """Raise `UnsupportedModelError` where an adapter is saved alone, without the bias and the condensers."""
    names = {
        name
        for module in model.modules()
        for name, config in (getattr(module, "peft_config", None) or {}).items()
        if getattr(config, "condenser", None) is None
    }
    if names:
        raise UnsupportedModelError(
            f"an adapter is saved without its base, and stock PEFT leaves out the bias and the condensers; got the "
            f"adapters {', '.join(sorted(names))}. Make one that has them: expert_condenser.adapters.lora.add_adapter."
        )
