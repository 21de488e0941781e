"""Which heads and neurons serve one ability and not another."""
