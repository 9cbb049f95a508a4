"""`base_model` of a family that has none: trainers that compute the loss from hidden states (TRL's) call it for them.

A transformers model finds its decoder by a name, `base_model_prefix`. Llama 4's names a part that its models do not
have (transformers 5.23), so that `base_model` is the model itself, which returns logits instead.
"""

from typing import Any

_PLACE = "expert_condenser_backbone"


class Backbone:
    """The decoder's output in a forward of the whole model, so that images are where they belong."""

    def __init__(self, model: Any, decoder: Any) -> None:
        self.model, self.decoder = model, decoder

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The arguments are the model's; the head runs on one token and is not used."""
        outputs: list[Any] = []
        handle = self.decoder.register_forward_hook(lambda decoder, args, output: outputs.append(output))
        try:
            # That of the class: TRL puts its own forward on the instance, and that one called us.
            type(self.model).forward(self.model, *args, logits_to_keep=1, **kwargs)
        finally:
            handle.remove()
        return outputs[-1]

    def __getattr__(self, name: str) -> Any:
        """What else is asked of a base model, such as its plans for parallelism, the decoder has."""
        if name in ("model", "decoder"):  # while it is being copied
            raise AttributeError(name)
        return getattr(self.decoder, name)


def lend_backbone(model: Any, decoder: Any) -> None:
    """Give a model a `base_model` where it has none, on the instance."""
    if model is not None and model.base_model is model:
        vars(model).update({_PLACE: Backbone(model, decoder), "base_model_prefix": _PLACE})


def return_backbone(model: Any) -> None:
    """Undo `lend_backbone`."""
    if model is not None and _PLACE in vars(model):
        del vars(model)[_PLACE], vars(model)["base_model_prefix"]
