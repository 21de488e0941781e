"""Every word of the closed world, by what it names. Places, languages, rivers and moneys are invented."""


def _words(text: str) -> list[str]:
    return text.split()


WOMEN = _words(
    "Ada Anna Bella Carla Dora Elsa Emma Fiona Greta Hanna Irene Julia Laura Lucy Maria Nina Olga Rita Sara Vera"
)
MEN = _words(
    "Adam Albert Bruno Carl David Edgar Felix George Henry Hugo Ivan Jacob Leo Mark Oscar Paul Peter Simon Thomas Victor"
)

# Country: three towns (the first is the capital), language, river, money. The first four countries lie in the north.
COUNTRIES: dict[str, tuple[tuple[str, str, str], str, str, str]] = {
    "Norvia": (("Astel", "Brenna", "Corvik"), "Norvish", "Ulda", "dral"),
    "Velmar": (("Delphor", "Esmont", "Farrick"), "Velmic", "Sorin", "crona"),
    "Tarkia": (("Galdur", "Hestin", "Ilmara"), "Tarkan", "Pellow", "tolk"),
    "Belora": (("Jolund", "Kesslin", "Lavik"), "Beloran", "Minda", "bez"),
    "Sudria": (("Marison", "Novalto", "Olanto"), "Sudrian", "Tavo", "peza"),
    "Quenta": (("Palvera", "Quillon", "Rosanta"), "Quentic", "Yarvo", "quill"),
    "Mirova": (("Solanna", "Tirellia", "Umbros"), "Mirovan", "Wenda", "moro"),
    "Zandia": (("Vallado", "Wexora", "Yolandra"), "Zandic", "Xana", "zent"),
}
CONTINENTS = ("north", "south")
JOBS = _words("baker teacher doctor farmer painter singer tailor sailor miller lawyer writer driver")

# Category: (kind above it, what its members have, members).
CATEGORIES: dict[str, tuple[str, str, list[str]]] = {
    "bird": ("animal", "feathers", _words("robin eagle sparrow owl duck raven swan parrot heron gull")),
    "fish": ("animal", "fins", _words("trout salmon tuna carp pike herring cod shark eel perch")),
    "mammal": ("animal", "fur", _words("dog cat horse cow rabbit tiger wolf bear goat lion")),
    "insect": ("animal", "antennas", _words("ant bee beetle moth wasp cricket butterfly termite hornet locust")),
    "tree": ("plant", "bark", _words("oak pine birch maple elm willow cedar poplar spruce aspen")),
    "flower": ("plant", "petals", _words("rose tulip daisy lily orchid violet poppy lotus iris dahlia")),
    "tool": ("product", "handles", _words("hammer saw drill chisel wrench shovel rake axe pliers sickle")),
    "vehicle": ("product", "wheels", _words("car truck bus tram wagon tractor bicycle scooter taxi van")),
    "instrument": ("product", "tones", _words("violin piano flute guitar trumpet cello harp drum organ lute")),
    "garment": ("product", "seams", _words("shirt coat scarf glove skirt jacket sweater vest sock robe")),
}
KIND_IS_ALIVE = {"animal": True, "plant": True, "product": False}
COLOURS = _words("red blue green yellow black white brown grey pink purple")
METALS = _words("iron gold silver copper tin zinc lead nickel steel bronze")

# The plurals that are not the singular and an s.
PLURALS = {
    **{word: word for word in CATEGORIES["fish"][2]},
    **{"butterfly": "butterflies", "daisy": "daisies", "lily": "lilies", "poppy": "poppies", "bus": "buses"},
    **{"wolf": "wolves", "lotus": "lotuses", "iris": "irises", "axe": "axes", "pliers": "pliers", "wrench": "wrenches"},
    **{"birch": "birches"},
}

GOOD = _words(
    "good great lovely wonderful excellent pleasant superb delightful charming perfect brilliant fine splendid "
    "enjoyable amazing fantastic"
)
BAD = _words(
    "bad awful terrible horrible dreadful poor nasty boring disgusting ugly lousy miserable rotten gloomy tasteless "
    "annoying"
)
LIKES, DISLIKES = _words("loved enjoyed liked praised admired"), _words("hated disliked despised regretted cursed")
REVIEWED = _words("food room service music film play hotel soup story concert view breakfast wine staff trip garden")
INTENSIFIERS = _words("very really quite truly so rather")

OBJECTS = _words("ball key book cup lamp ring coin letter map pen clock knife")
CONTAINERS = _words("box bag basket drawer chest sack crate bucket")
INDOORS = _words("kitchen bedroom cellar attic library bathroom")
OUTDOORS = _words("yard orchard field meadow street park")
PLACES = _words("market station school harbour bridge theatre")

DAYS = _words("Monday Tuesday Wednesday Thursday Friday Saturday Sunday")
MONTHS = _words("January February March April May June July August September October November December")
NUMBER_WORDS = _words(
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen twenty"
)
LARGEST = 50  # digits are written for 0 … LARGEST

AGES = _words("old young small big strong tired quiet clean")
VERBS = {"Today": ("is", "are"), "Yesterday": ("was", "were"), "So far": ("has", "have")}  # what opens the sentence


def plural(noun: str) -> str:
    """The plural of a countable noun of this world."""
    return PLURALS.get(noun, noun + "s")


def article(noun: str) -> str:
    """The noun behind its indefinite article."""
    return f"{'an' if noun[0].lower() in 'aeiou' else 'a'} {noun}"
