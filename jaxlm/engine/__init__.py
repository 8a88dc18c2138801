"""The JAX implementation of the contract in `jaxlm.spec`."""
