"""What a page built of an atlas, kept while the atlas is open: charts take longer to build than to send.

At most `MOST` things an atlas (a concept's charts are some 100 kB), the longest unused goes first. A thing is built anew where the
concept was read anew, since it may not be the same any more.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

from conceptlab.web.atlas_shelf import AtlasShelf

MOST = 128
T = TypeVar("T")
_lock = threading.Lock()
_held: "WeakKeyDictionary[AtlasShelf, OrderedDict[Hashable, tuple[Any, Any]]]" = WeakKeyDictionary()


def kept(shelf: AtlasShelf, key: Hashable, source: object, build: Callable[[], T]) -> T:
    """What `build` gave for this key and this very `source`, or gives now. From any thread; it must not be changed."""
    with _lock:
        held = _held.setdefault(shelf, OrderedDict())
        if key in held and held[key][0] is source:
            held.move_to_end(key)
            return held[key][1]
    made = build()
    with _lock:
        held[key] = (source, made)
        held.move_to_end(key)
        while len(held) > MOST:
            held.popitem(last=False)
    return made
