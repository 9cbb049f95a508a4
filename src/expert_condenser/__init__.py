"""expert-condenser: fine-tune Mixture-of-Experts language models and keep their long-tailed experts."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from expert_condenser.registration import register_when_imported

if TYPE_CHECKING:
    from expert_condenser.checkpoint.load import load_model
    from expert_condenser.functional.bias import update_bias
    from expert_condenser.functional.routing import RoutingConfig, route
    from expert_condenser.functional.selection import select_condensers
    from expert_condenser.methods import METHODS, MethodConfig
    from expert_condenser.moe.attach import attach, detach, set_condensers
    from expert_condenser.moe.layers import moe_layers
    from expert_condenser.training.callback import MethodCallback

__all__ = [
    "METHODS",
    "MethodCallback",
    "MethodConfig",
    "RoutingConfig",
    "attach",
    "detach",
    "load_model",
    "moe_layers",
    "route",
    "select_condensers",
    "set_condensers",
    "update_bias",
]

_HOMES = {
    "METHODS": "methods",
    "MethodCallback": "training.callback",
    "MethodConfig": "methods",
    "RoutingConfig": "functional.routing",
    "attach": "moe.attach",
    "detach": "moe.attach",
    "load_model": "checkpoint.load",
    "moe_layers": "moe.layers",
    "route": "functional.routing",
    "select_condensers": "functional.selection",
    "set_condensers": "moe.attach",
    "update_bias": "functional.bias",
}
"""Where the public names live. Each is looked up when it is asked for: torch alone takes a second to import."""


def __getattr__(name: str) -> Any:
    """A public name, or the version."""
    if name == "__version__":
        from importlib.metadata import version

        return version("expert-condenser")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """The public names, for a prompt's completion."""
    return [*__all__, "__version__"]


register_when_imported()
