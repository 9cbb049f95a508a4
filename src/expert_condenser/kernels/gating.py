"""What stands between the two projections of an expert, with its derivative."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor


class Gate:
    """A family's own activation `(N, P) -> (N, I)`, differentiated by autograd from its input alone."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        self.function = function

    def forward(self, projected: Float[Tensor, "N P"]) -> Float[Tensor, "N I"]:
        """The activation."""
        return self.function(projected)

    def backward(
        self, projected: Float[Tensor, "N P"], gradient: Float[Tensor, "N I"]
    ) -> tuple[Float[Tensor, "N I"], Float[Tensor, "N P"]]:
        """The activation again, and the gradient before it from the one after it; both are the caller's to change."""
        with torch.enable_grad():
            leaf = projected.detach().requires_grad_()
            activated = self.function(leaf)
        # Copies, since a function may return its input, and its derivative the gradient; the caller writes into both.
        return activated.detach().clone(), torch.autograd.grad(activated, leaf, gradient.clone())[0]


class SwiGlu(Gate):
    """The usual activation, `silu(g) u` of `[g; u]`, differentiated by hand."""

    def __init__(self) -> None:
        super().__init__(self.forward)

    def forward(self, projected: Float[Tensor, "N P"]) -> Float[Tensor, "N I"]:
        """`silu(g) u`."""
        gate, up = projected.chunk(2, dim=-1)
        return torch.nn.functional.silu(gate).mul_(up)

    def backward(
        self, projected: Float[Tensor, "N P"], gradient: Float[Tensor, "N I"]
    ) -> tuple[Float[Tensor, "N I"], Float[Tensor, "N P"]]:
        """`silu(g) u` and `[silu'(g) u; silu(g)]` times the gradient."""
        gate, up = projected.chunk(2, dim=-1)
        activated = torch.nn.functional.silu(gate)
        before = torch.empty_like(projected)
        of_gate, of_up = before.chunk(2, dim=-1)
        torch.mul(gradient, activated, out=of_up)
        torch.ops.aten.silu_backward.grad_input(gradient * up, gate, grad_input=of_gate)
        return activated.mul_(up), before
