"""Laws: how loss may depend on model size and data."""
