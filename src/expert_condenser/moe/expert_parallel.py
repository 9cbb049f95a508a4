"""Expert parallelism with condensers on every process: what every token chooses is sent nowhere.

    from_pretrained(..., distributed_config=DistributedConfig(fsdp_size=N, ep_size=N, ep_implementation=NAME))
    replicate_condensers(model)

transformers sends the row of a token to every expert that it chose. A condenser would get the rows of all tokens, and
the process that holds it would have that much more work than the others. Its weights stay where they are, in one
process, and are lent to all for a forward: an all-reduce of `R` experts' weights, and in the backward pass of their
gradients, in the place of an all-to-all of a row for every token and condenser.
"""

from typing import Any

import torch
import torch.distributed
from torch import Tensor, nn
from transformers.distributed.expert_parallel import AllToAllEP, EPImplementationInterface

from expert_condenser.errors import UnsupportedModelError
from expert_condenser.moe.layers import moe_layers
from expert_condenser.moe.slices import holding

NAME = "replicated_condensers"
"""Of the implementation, in `DistributedConfig.ep_implementation`."""
_DISPATCH = "condenser_dispatch"
"""The attribute of an experts module that holds its implementation; transformers keeps it in a closure."""


class Lend(torch.autograd.Function):
    """Experts' weights `(R, ...)` in every process, from the `(E / P, ...)` that each holds; gradients are summed."""

    @staticmethod
    def forward(ctx: Any, own: Tensor, ids: Tensor, first: int, group: Any) -> Tensor:  # noqa: D102
        held = (ids >= first) & (ids < first + len(own))
        ctx.rows, ctx.held, ctx.group, ctx.size = ids[held] - first, held, group, own.shape
        lent = own.new_zeros(len(ids), *own.shape[1:])
        lent[held] = own[ctx.rows]
        torch.distributed.all_reduce(lent, group=group)
        return lent

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:  # noqa: D102
        total = gradients[0].contiguous().clone()
        torch.distributed.all_reduce(total, group=ctx.group)
        of_own = total.new_zeros(ctx.size)
        of_own[ctx.rows] = total[ctx.held]
        return of_own, None, None, None


class Traffic:
    """What one process has sent since it was last set to zero, in the forward pass."""

    def __init__(self) -> None:
        self.pairs = self.pairs_elsewhere = self.bytes = self.bytes_of_weights = 0
        """Token-expert pairs in all-to-alls, those of them to other processes, their bytes; and lent weights."""
        self.rows = 0
        """Rows that this process's experts computed for all processes."""


class ReplicatedCondensers(AllToAllEP):
    """transformers' all-to-all for the experts that tokens choose, and the condensers where the tokens are."""

    def __init__(self, experts: nn.Module, ep_mesh: Any, tp_mesh: Any) -> None:
        super().__init__(experts, ep_mesh, tp_mesh)
        if tp_mesh.size() > 1:
            raise UnsupportedModelError(
                f"{NAME} is for processes that have tokens of their own, and a tensor-parallel group shares them; got "
                f"tp_size = {tp_mesh.size()}: take tp_size 1, or ep_implementation='all_to_all'"
            )
        self.experts, self.traffic = experts, Traffic()
        self.router: Any = None
        setattr(experts, _DISPATCH, self)

    def __call__(self, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
        """Outputs `(T, D)` of the experts `(T, S)`."""
        always = None if self.router is None else torch.isin(top_k_index, self.router.condenser_ids)
        if always is None or not always.any():
            return self._sent(hidden_states, top_k_index, top_k_weights)
        tokens, chosen = len(top_k_index), ~always
        output = self._here(hidden_states, top_k_index[always].view(tokens, -1), top_k_weights[always].view(tokens, -1))
        if not chosen.any():
            return output
        return output + self._sent(
            hidden_states, top_k_index[chosen].view(tokens, -1), top_k_weights[chosen].view(tokens, -1)
        )

    def _sent(self, hidden_states: Tensor, indices: Tensor, weights: Tensor) -> Tensor:
        output: Tensor = super().__call__(hidden_states, indices, weights)
        return output

    def _dispatch_tokens(self, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Any:
        """As in transformers, which returns the sizes that are noted."""
        found = super()._dispatch_tokens(hidden_states, top_k_index, top_k_weights)
        sizes = found[-1].send_sizes
        elsewhere = sum(sizes) - sizes[self.ep_mesh.get_local_rank()]
        self.traffic.pairs += sum(sizes)
        self.traffic.pairs_elsewhere += elsewhere
        self.traffic.bytes += 2 * elsewhere * hidden_states.shape[-1] * hidden_states.element_size()
        self.traffic.rows += sum(found[-1].recv_sizes)
        return found

    def _here(self, hidden_states: Tensor, ids: Tensor, weights: Tensor) -> Tensor:
        condensers: Tensor = self.router.condenser_ids
        first, group = self.num_local_experts * self.ep_mesh.get_local_rank(), self.ep_mesh.get_group()
        own = dict(self.experts.named_parameters(recurse=False))  # those that this process holds
        lent = {name: Lend.apply(value, condensers, first, group) for name, value in own.items()}  # type: ignore[no-untyped-call]
        self.traffic.bytes_of_weights += sum(value.numel() * value.element_size() for value in lent.values())
        self.traffic.rows += ids.numel()
        place = torch.empty(int(condensers.max()) + 1, dtype=ids.dtype, device=ids.device)
        place[condensers] = torch.arange(len(condensers), device=ids.device)
        with holding(self.experts, lent, len(condensers)):
            output: Tensor = self.experts_forward(hidden_states, place[ids], weights)
        return output


def replicate_condensers(model: nn.Module) -> None:
    """Let every process compute the condensers itself, from now on, whichever experts they are.

    Raises `UnsupportedModelError` where the model was loaded with another implementation of expert parallelism.
    """
    for layer in moe_layers(model):
        dispatch = dispatch_of(layer.experts)
        if dispatch is None:
            raise UnsupportedModelError(
                f"condensers are replicated in a model that is loaded with ep_implementation={NAME!r}; {layer.name} "
                "was not: name it in the DistributedConfig"
            )
        dispatch.router = layer.router if layer.router.policy is not None else None


def dispatch_of(experts: Any) -> ReplicatedCondensers | None:
    """How an experts module sends tokens, if by this implementation."""
    found: ReplicatedCondensers | None = getattr(experts, _DISPATCH, None)
    return found


EPImplementationInterface.register(NAME, ReplicatedCondensers)
