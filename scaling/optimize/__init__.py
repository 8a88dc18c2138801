"""scipy.optimize's interface over optimizers in JAX."""
