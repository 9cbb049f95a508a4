"""Studies: a grid of methods, seeds and options on one base model, and the tables made of it."""
