"""How small an effect is of no interest: p values of effects ask whether there is more than this."""

FLOOR = 0.01  # of the behaviour
