"""How well a concept can be read, layer by layer, beside what shuffled labels and control tasks give."""
