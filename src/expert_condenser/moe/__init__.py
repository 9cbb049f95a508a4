"""The seam: the only rooms that know transformers' MoE classes are this one and its neighbours on the floor."""
