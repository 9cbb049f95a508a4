"""A run while it trains, from its files alone: in a terminal, and as a page."""
