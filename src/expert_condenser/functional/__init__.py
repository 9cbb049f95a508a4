"""The paper's mathematics: pure functions on tensors, without modules, models or processes."""
