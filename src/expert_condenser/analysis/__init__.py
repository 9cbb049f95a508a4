"""What experts do, and what they are for: every figure of the paper as a function that returns its numbers."""
