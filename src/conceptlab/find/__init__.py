"""What returns a thing that was found: directions, heads, neurons."""
