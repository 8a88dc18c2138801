"""JAX against PyTorch, and faults that show that these tests can fail."""
