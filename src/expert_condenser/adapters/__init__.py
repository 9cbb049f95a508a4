"""LoRA adapters that carry the routers' state."""
