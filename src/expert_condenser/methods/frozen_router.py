"""`frozen_router`: every weight trains except those of the routers."""

from expert_condenser.methods.base import Config, Method


class FrozenRouter(Method):
    """Experts go on learning; who gets which token is decided by the routers of the base model."""

    Config = Config
    name = "frozen_router"
    summary = "plain fine-tuning with the routers as they are"
    paper = "a baseline of arXiv 2604.23036"
    trainable = "all but the routers"
    default_router = "freeze"
