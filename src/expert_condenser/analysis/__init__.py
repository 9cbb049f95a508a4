"""What the experts of a model do on given data."""
