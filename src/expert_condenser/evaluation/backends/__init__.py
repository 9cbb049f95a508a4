"""What answers: a transformers model here, vLLM, lm-eval; `base` says what they have in common."""
