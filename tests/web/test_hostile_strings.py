"""The hostile texts themselves: as many as were asked for, all different, the same each time, and of every kind."""

from tests.web.hostile_strings import hostile_strings


def test_there_are_2000_different_texts_and_the_same_each_time() -> None:
    found = hostile_strings()
    assert len(found) == len(set(found)) == 2000
    assert hostile_strings() == found
    assert hostile_strings(seed=1) != found
    assert hostile_strings(50) == found[:50]


def test_every_kind_is_among_them() -> None:
    found = hostile_strings()
    for sign in (
        "<script>",
        "</script>",
        "onerror=",
        "<svg",
        "<math",
        "javascript:",
        "{{",
        "${",
        "hx-",
        "\u202e",
        "\u200b",
        "\x1b[",
        "\ud800",
    ):
        assert sum(sign in text for text in found) >= 1, sign
    assert sum("window.pwned" in text.lower() for text in found) > 1000
    assert max(map(len, found)) >= 100_000
    assert "" in found
