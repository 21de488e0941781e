"""How directions and concepts lie to each other."""
