"""Evaluation: generate answers, compare them with references."""
