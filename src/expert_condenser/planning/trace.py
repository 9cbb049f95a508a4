"""A training step on tensors without data: forward, loss and backward of the real model, with every byte noted."""

from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from peft import PeftModel

# The head that TRL's trainer gives a model: logits in tiles, never whole. There is no public way to it but a trainer.
from trl.trainer.utils import add_fused_lm_head

from expert_condenser.methods import Method
from expert_condenser.moe.layers import decoder_of, moe_layers
from expert_condenser.planning.ledger import ACTIVATIONS, LOGITS, Ledger, Moment
from expert_condenser.planning.sized_experts import sized_experts


@dataclass(frozen=True)
class Batch:
    """What a device takes at a time."""

    rows: int
    length: int
    accumulation: int = 1
    autocast: torch.dtype | None = None

    @property
    def tokens(self) -> int:
        """Tokens of one micro-batch, padding included."""
        return self.rows * self.length


@dataclass(frozen=True)
class Trace:
    """What one device's step has in memory beside model and optimizer."""

    moments: tuple[Moment, ...]
    scratch: int
    """Memory that the experts keep from layer to layer; it is in the moments, too."""

    def peak(self, share: float = 1.0) -> Moment:
        """The highest moment where a device keeps this share of the gradients; of equal ones, the one with most."""
        scaled = [moment._replace(gradients=round(share * moment.gradients)) for moment in self.moments]
        return max(scaled, key=lambda moment: (sum(moment), moment.gradients))


def trace(model: Any, method: Method, batch: Batch, *, checkpointing: dict[str, Any] | None) -> Trace:
    """Trace one micro-batch, the last of an optimizer step; `checkpointing` are its options, None is without.

    Call it within `without_data`, on a model that was built there, and once.
    """
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    add_fused_lm_head(base, outputs=("log_probs", "entropy", "is_top1"))
    if checkpointing is not None:
        base.gradient_checkpointing_enable({"use_reentrant": False, **checkpointing})
        if isinstance(model, PeftModel):
            base.enable_input_require_grads()
    ledger = Ledger(model)
    decoder_of(model, moe_layers(model)).register_forward_hook(lambda *call: _head_begins(ledger, call[2]))
    with sized_experts() as kept_bytes, ledger:
        for _ in range(min(batch.accumulation, 2)):  # from the second on, the gradients are there throughout
            ledger.forget()
            ledger.phase = ACTIVATIONS
            _micro_batch(model, batch, auxiliary=bool(method.router_aux_loss_coef))
        return Trace(tuple(ledger.moments()), kept_bytes())


def _micro_batch(model: Any, batch: Batch, *, auxiliary: bool) -> None:
    ids = torch.zeros(batch.rows, batch.length, dtype=torch.int64)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids.clone()}
    asked = {"output_router_logits": True} if auxiliary else {}
    enabled = torch.autocast("cpu", dtype=batch.autocast) if batch.autocast is not None else nullcontext()
    with enabled:
        outputs = model(**inputs, use_cache=False, fused_lm_head=True, **asked)
    loss = -outputs.log_probs.sum() / batch.tokens
    (loss + outputs.aux_loss if auxiliary else loss).backward()


def _head_begins(ledger: Ledger, outputs: Any) -> None:
    """From the end of the decoder's forward until its backward begins, what is made is the head's and the loss's."""
    hidden = outputs[0]

    def ends(gradient: torch.Tensor) -> None:
        ledger.phase = ACTIVATIONS

    if hidden.requires_grad:
        ledger.phase = LOGITS
        hidden.register_hook(ends)
