"""JAX's answer to the contract of `jaxlm.spec`."""
