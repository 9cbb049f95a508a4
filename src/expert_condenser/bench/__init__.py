"""`condenser bench`: what a layer, a training step, or generation costs, side by side in one run."""
