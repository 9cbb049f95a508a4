"""A tuned model as a checkpoint that programs serve which do not know this package; exactly, or not at all."""
