"""A frozen path: the code file inside every saved model imports these names from here."""

from expert_condenser.moe.own_types import auto_class, own_config_class, own_model_class, own_trunk_class

__all__ = ["auto_class", "own_config_class", "own_model_class", "own_trunk_class"]
