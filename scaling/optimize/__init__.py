"""Optimizers in JAX with the interface of scipy.optimize."""
