"""Tests of JAX against PyTorch, and deliberate faults that show that these tests can fail."""
