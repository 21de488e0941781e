"""What others wrote is shown without anything hidden in it."""

import unicodedata

from conceptlab.plot.naming import visible


def test_nothing_invisible_is_left():
    for code in (*range(0x20), 0x7F, 0x85, 0xAD, 0x200B, 0x200D, 0x202E, 0x2028, 0x2066, 0xFEFF, 0xD800, 0xE0041):
        shown = visible(f"a{chr(code)}b")
        assert all(unicodedata.category(c) not in ("Cc", "Cf", "Cs", "Zl", "Zp") for c in shown), hex(code)
        assert shown.startswith("a\\") and shown.endswith("b")


def test_ordinary_names_stay_and_long_ones_end():
    assert visible("größer als 日本") == "größer als 日本"
    assert len(visible("x" * 10_000)) == 60
    assert visible("") == "(no name)"
