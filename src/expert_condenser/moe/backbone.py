"""What a trainer that computes the loss from hidden states (TRL's) asks a model for: `base_model`, and the head.

A transformers model finds its decoder by a name, `base_model_prefix`. Llama 4's names a part that its models do not
have, and Nemotron 3 Omni has none (transformers 5.23): there `base_model` is the model itself, which returns logits.
Omni does not find its head either, which is that of the language model inside.
"""

from typing import Any

_PLACE, _HEAD = "expert_condenser_backbone", "get_output_embeddings"


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
    """Give a model what it has not, on the instance."""
    if model is None or model.base_model is not model:
        return
    vars(model).update({_PLACE: Backbone(model, decoder), "base_model_prefix": _PLACE})
    if model.get_output_embeddings() is None:
        parts = (part for part in model.modules() if part is not model and hasattr(part, _HEAD))
        vars(model)[_HEAD] = next(getattr(part, _HEAD) for part in parts if getattr(part, _HEAD)() is not None)


def return_backbone(model: Any) -> None:
    """Undo `lend_backbone`."""
    if model is not None and _PLACE in vars(model):
        for name in (_PLACE, "base_model_prefix", _HEAD):
            vars(model).pop(name, None)
