"""The definitions that both engines share, without a framework."""
