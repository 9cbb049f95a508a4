"""Checkpoints of another shape: experts removed for good (prune), or made from a dense model (upcycle)."""
