"""Which method won: runs paired by seed and item, and their statistics. It needs no model."""
