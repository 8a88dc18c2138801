"""Reads tables of training runs into checked arrays."""
