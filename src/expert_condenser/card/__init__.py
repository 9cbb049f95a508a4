"""What others get to see of a saved model: its card, with what was measured, and its upload."""
