"""The work of one arm: one MoE layer forward and backward, a training step, or generation, as a function to time."""

import time
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from transformers import PreTrainedModel

from expert_condenser.bench.arms import Arm, prepare
from expert_condenser.bench.measure import synchronize
from expert_condenser.bench.shapes import VOCABULARY, Shape, share_storage
from expert_condenser.methods import Method
from expert_condenser.moe.attachment import attachment_of
from expert_condenser.moe.layers import moe_layers
from expert_condenser.training.callback import MethodCallback

LENGTH = 256
"""Tokens of a training row."""
PROMPT, NEW_TOKENS = 64, 32


@dataclass(frozen=True)
class Setting:
    """What all arms of a run have in common."""

    shape: Shape
    device: str
    dtype: torch.dtype
    experts: str
    """The experts implementation of arms that name none."""


class LayerWork:
    """The first MoE layer: forward and backward, with usage counted; the gradients are dropped at the end."""

    warm = 1

    def __init__(self, arm: Arm, model: PreTrainedModel, setting: Setting) -> None:
        self.model = share_storage(model)
        prepare(arm, self.model, setting.experts)
        self.tokens, self.flops = setting.shape.tokens, setting.shape.expert_flops()
        layer = moe_layers(self.model)[0]
        attachment_of(self.model).watch.counting = True
        self.block = self.model.get_submodule(layer.block)
        size = (1, setting.shape.tokens, setting.shape.hidden)
        generator = torch.Generator().manual_seed(1)
        self.hidden, self.upstream = (
            torch.randn(size, generator=generator).to(setting.device, setting.dtype) for _ in range(2)
        )

    def __call__(self) -> None:
        """One forward and backward."""
        output = self.block(self.hidden.detach().requires_grad_())
        (output if isinstance(output, torch.Tensor) else output[0]).backward(self.upstream)
        self.block.zero_grad(set_to_none=True)


class TrainWork:
    """A training step with AdamW, and everything that the method and its callback do in one that is logged."""

    warm = 2
    """The optimizer's state is made in the first step, and there in every other."""

    def __init__(self, arm: Arm, model: PreTrainedModel, setting: Setting) -> None:
        self.model: Any = share_storage(model)
        self.method: Method = prepare(arm, self.model, setting.experts)
        self.state = SimpleNamespace(
            global_step=0,
            max_steps=1,
            logging_steps=1,
            log_history=[{}],
            is_world_process_zero=False,  # which writes the history, and a benchmark has no folder
        )
        self.args = SimpleNamespace(n_gpu=1, fp16=False, router_aux_loss_coef=self.method.router_aux_loss_coef)
        self.callback = MethodCallback(self.method)
        self.callback.on_train_begin(self.args, self.state, None, model=self.model)
        self.optimizer = torch.optim.AdamW([p for p in self.model.parameters() if p.requires_grad], lr=1e-6)
        rows = max(setting.shape.tokens // LENGTH, 1)
        generator = torch.Generator().manual_seed(1)
        self.ids = torch.randint(0, VOCABULARY, (rows, setting.shape.tokens // rows), generator=generator)
        self.ids = self.ids.to(setting.device)
        self.device, self.tokens = setting.device, self.ids.numel()
        self.flops = 6 * self.tokens * active_parameters(model)
        self.callback_seconds: list[float] = []

    def __call__(self) -> None:
        """One optimizer step."""
        spent = self._clocked("on_step_begin")
        router_logits = {"output_router_logits": True} if self.method.router_aux_loss_coef else {}
        output = self.model(input_ids=self.ids, labels=self.ids, use_cache=False, **router_logits)
        output.loss.backward()
        spent += self._clocked("on_pre_optimizer_step")
        self.optimizer.step()
        spent += self._clocked("on_optimizer_step")
        self.optimizer.zero_grad()
        self.state.log_history = [{}]
        spent += self._clocked("on_log", logs={"loss": 1.0})
        self.callback_seconds.append(spent)

    def _clocked(self, event: str, **options: Any) -> float:
        synchronize(self.device)  # what waits here is the model's
        begin = time.perf_counter()
        getattr(self.callback, event)(self.args, self.state, None, **options)
        return time.perf_counter() - begin


class GenerateWork:
    """Greedy generation of a batch with a KV cache; `tokens` are the new ones."""

    warm = 1

    def __init__(self, arm: Arm, model: PreTrainedModel, setting: Setting) -> None:
        self.model: Any = share_storage(model)
        prepare(arm, self.model, setting.experts)
        self.model.eval()
        generator = torch.Generator().manual_seed(1)
        rows = max(setting.shape.tokens // (PROMPT + NEW_TOKENS), 1)
        self.ids = torch.randint(2, VOCABULARY, (rows, PROMPT), generator=generator).to(setting.device)
        self.tokens = rows * NEW_TOKENS
        self.flops = 2 * rows * (PROMPT + NEW_TOKENS - 1) * active_parameters(model)

    @torch.no_grad()
    def __call__(self) -> None:
        """One batch, all rows to full length."""
        self.model.generate(
            input_ids=self.ids,
            attention_mask=torch.ones_like(self.ids),
            do_sample=False,
            min_new_tokens=NEW_TOKENS,
            max_new_tokens=NEW_TOKENS,
            pad_token_id=0,
        )


def active_parameters(model: PreTrainedModel) -> int:
    """Parameters that a token meets: of the routed experts K of E. FLOPs of attention scores are not in them."""
    layers = moe_layers(model)
    total, routed = sum(p.numel() for p in model.parameters()), 0
    for layer in layers:
        routed += sum(p.numel() for p in layer.experts.parameters())
    return total - routed + routed * layers[0].top_k // layers[0].num_experts


WORKLOADS = {"layer": LayerWork, "train": TrainWork, "generate": GenerateWork}
