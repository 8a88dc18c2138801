"""What both engines agree on, without a framework."""
