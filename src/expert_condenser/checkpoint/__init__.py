"""Directories on disk: a model is loaded whole or not at all, described, and guarded by a manifest."""

from expert_condenser.checkpoint.load import load_model

__all__ = ["load_model"]
