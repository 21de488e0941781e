"""How alike two sets of states, spaces or structures are."""
