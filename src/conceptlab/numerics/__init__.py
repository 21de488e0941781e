"""Pure tensor maths: batched linear fits and rank scores; it knows no model library."""
