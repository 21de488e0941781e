"""The viewer from Python: it answers under its own address only, and is gone when it is closed."""

import urllib.error
import urllib.request

import pytest

import conceptlab
from conceptlab.errors import InputError


def status_of(address: str) -> int:
    opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
    try:
        with opener.open(address, timeout=30) as found:
            return found.status
    except urllib.error.HTTPError as error:
        return error.code


def test_an_atlas_and_a_model_are_shown_until_closed(atlas_folder, desk) -> None:
    with conceptlab.view(atlas_folder, desk.live.model, open_browser=False) as viewer:
        assert viewer.url.startswith("http://127.0.0.1:")
        assert viewer.url in viewer._repr_html_()
        assert viewer.running
        assert status_of(viewer.url) == 200
        assert status_of(viewer.url.split("?")[0]) in (401, 403), "without the token nothing is shown"
        assert list(viewer.desk.atlases) == list(desk.atlases)
        assert viewer.desk.live is not None
    assert not viewer.running
    assert repr(viewer) == "Viewer(closed)"
    with pytest.raises(urllib.error.URLError):
        status_of(viewer.url)
    viewer.close()


def test_an_atlas_in_memory_is_shown_too(atlas_folder) -> None:
    made = conceptlab.Atlas.load(atlas_folder)
    with conceptlab.view(made, open_browser=False) as viewer:
        assert [c.name for c in next(iter(viewer.desk.atlases.values())).concepts.values()] == [
            c.name for c in made.concepts
        ]
        assert viewer.desk.live is None


@pytest.mark.parametrize("shown", [(), (3,), ("no-such-folder",)])
def test_what_cannot_be_shown_is_said_in_a_line(shown) -> None:
    with pytest.raises(InputError) as said:
        conceptlab.view(*shown, open_browser=False)
    assert len(str(said.value).splitlines()) == 1
