"""Tables in, checked arrays out."""
