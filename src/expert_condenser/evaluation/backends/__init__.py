"""What answers: a loaded model, vLLM, lm-eval."""
