"""Routers with a forward on the instance: accelerate's hooks go on working, any other is refused.

A model that is offloaded, or spread over devices by `device_map`, has hooks of accelerate: each sets `module.forward`,
moves weights and inputs, and calls the forward that it found. The seam is the forward of the router's class, so such
a hook has to call that of the new class.
"""

from functools import partial
from types import MethodType
from typing import Any

import torch

from expert_condenser.errors import UnsupportedModelError

# Where accelerate keeps its hook and the forward that the hook calls. Its public way to put a forward under a hook is
# to remove the hook and add it again, which loads every offloaded weight of the router in between.
_HOOK, _INNER = "_hf_hook", "_old_forward"


def check_forward(name: str, router: Any) -> None:
    """Raise `UnsupportedModelError` where a call of the router would not reach the forward of its class."""
    found = vars(router).get("forward")
    hooked = _HOOK in vars(router) and isinstance(found, partial) and found.func.__module__ == "accelerate.hooks"
    inner = vars(router).get(_INNER) if hooked else found
    if inner is not None and not _is_of_class(inner, router):
        raise UnsupportedModelError(
            f"routing is changed in the forward of a router's class; {name} has a forward on the instance that does "
            f"not call it ({inner!r}), so nothing would change. Attach before it is put there, or take it away."
        )
    if any(hook.offload_buffers for hook in _device_hooks(router)):
        raise UnsupportedModelError(
            f"the bias and the condensers stay where a router computes; the buffers of {name} are offloaded. Load the "
            "model with offload_buffers=False."
        )


def swap_class(router: Any, new: type) -> None:
    """Give a router another class, and let what accelerate kept of the old class's forward be that of the new one."""
    kept = [place for place in ("forward", _INNER) if _is_of_class(vars(router).get(place), router)]
    router.__class__ = new
    for place in kept:
        setattr(router, place, MethodType(new.forward, router))  # type: ignore[attr-defined]


def computes_on(router: Any) -> torch.device:
    """The device of a router's forward: where its weights are, or where a hook brings them."""
    hooks = _device_hooks(router)
    return torch.device(hooks[0].execution_device) if hooks else next(router.parameters()).device


def _is_of_class(forward: Any, router: Any) -> bool:
    """Whether a forward is that of the router's class, bound to it."""
    bound = isinstance(forward, MethodType) and forward.__self__ is router
    return bound and forward.__func__ is type(router).forward


def _device_hooks(router: Any) -> list[Any]:
    """Accelerate's hooks on the router, or on the modules in it, that offload weights or align devices."""
    found = [vars(module)[_HOOK] for module in router.modules() if _HOOK in vars(module)]
    single = [part for hook in found for part in getattr(hook, "hooks", [hook])]
    return [hook for hook in single if getattr(hook, "execution_device", None) is not None]
