"""What a training needs before it starts: bytes per device and FLOPs, from the model's config alone."""
