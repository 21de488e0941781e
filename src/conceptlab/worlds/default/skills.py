"""The skills that the model learns, with their relative shares of its training samples."""

from conceptlab.worlds.default.claims import claim
from conceptlab.worlds.default.facts import fact, two_hop_context, two_hop_memory
from conceptlab.worlds.default.grammar import agreement
from conceptlab.worlds.default.reviews import review
from conceptlab.worlds.default.sample import Generator
from conceptlab.worlds.default.stories import coin, copying, giving, holding, room
from conceptlab.worlds.default.succession import comparison, succession
from conceptlab.worlds.default.taxonomy import taxonomy

SKILLS: dict[str, tuple[Generator, float]] = {
    "facts": (fact, 0.14),
    "two hops from memory": (two_hop_memory, 0.08),
    "two hops from the text": (two_hop_context, 0.08),
    "categories": (taxonomy, 0.10),
    "reviews": (review, 0.11),
    "succession": (succession, 0.09),
    "comparison": (comparison, 0.04),
    "copying": (copying, 0.07),
    "giving": (giving, 0.05),
    "holding": (holding, 0.05),
    "rooms": (room, 0.06),
    "agreement": (agreement, 0.06),
    "claims": (claim, 0.14),
    "coin": (coin, 0.01),
}
UNKNOWABLE = "coin"  # its answer is in no text: 0.5 is the best anyone can do
