"""Tiny random models of every family, for tests and examples: no downloads, milliseconds to build."""

from expert_condenser.testing.families import TINY_FAMILIES
from expert_condenser.testing.models import TINY_CONFIGS, VOCABULARY_SIZE, tiny_batch, tiny_config, tiny_model

__all__ = ["TINY_CONFIGS", "TINY_FAMILIES", "VOCABULARY_SIZE", "tiny_batch", "tiny_config", "tiny_model"]
