"""All configuration keys, with checks of their values."""
