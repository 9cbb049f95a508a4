"""Training: one callback for any `transformers.Trainer`, and the runs that `condenser train` makes with TRL."""
