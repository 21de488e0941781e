"""5,000 ways out of the folder, asked of every address of the viewer over one connection: nothing from outside comes back."""

import os
from pathlib import Path
from urllib.parse import unquote

import pytest

import conceptlab
from conceptlab.web.addresses import PAGES
from conceptlab.web.app import create_app
from conceptlab.web.desk import open_desk
from conceptlab.web.notes import Notes
from tests.web.traversal import traversals
from tests.web.wire import Wire, request_of, responses

CANARY = "canary-8d1f6e: the words of a file outside"
N = 5000


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An atlas with canaries around it and links out of it."""
    from tests.atlas.synthetic import atlas

    root = tmp_path_factory.mktemp("disk")
    atlas().save(root / "atlases" / "some")
    for place in ("secret.txt", "atlases/secret.txt", "atlases/other/secret.txt", "secret/manifest.json"):
        (root / place).parent.mkdir(exist_ok=True)
        (root / place).write_text(CANARY)
    for place in ("link", "concepts/link", "notes/link", "link.js"):
        (root / "atlases" / "some" / place).parent.mkdir(exist_ok=True)
        (root / "atlases" / "some" / place).symlink_to(root / "secret.txt")
    (root / "atlases" / "some" / "out").symlink_to(root)
    return root


@pytest.fixture(scope="module")
def wire(disk: Path):
    desk = open_desk([disk / "atlases" / "some"])
    desk.notes = Notes(disk / "atlases" / "some" / "notes")
    made = Wire(create_app(desk))
    made.desk = desk
    yield made
    made.close()
    desk.jobs.close()


def targets(disk: Path) -> list[str]:
    """What is asked for: canaries near and far, files of the system, of the package and of the atlas itself."""
    own = Path(conceptlab.__file__).parent
    far = [
        disk / "secret.txt",
        disk / "atlases" / "some" / "link",
        own / "errors.py",
        own / "pages" / "viewer" / "layout.html.j2",
    ]
    near = [
        "secret.txt",
        "link",
        "link.js",
        "out/secret.txt",
        "concepts/link",
        "manifest.json",
        "layout.html.j2",
        "report.css",
        "secret/manifest.json",
    ]
    system = ["etc/passwd", "proc/self/environ", "proc/self/cmdline", "etc/hostname", "windows/win.ini", "boot.ini"]
    return [*(str(path).lstrip("/") for path in far), *near, *system]


def leaks() -> list[bytes]:
    """Words that stand in those files and nowhere in a page."""
    environment = [f"{name}={value}".encode() for name, value in os.environ.items() if len(value) > 8]
    return [
        CANARY.encode(),
        b"root:x:0:0",
        b"class ConceptlabError(Exception)",
        b"{% block",
        b"{{ ",
        b'"seal":',
        *environment,
    ]


IN_PATHS = ("/{}", "/assets/{}", "/concept/{}", "/notes/{}", "/notes/circuit/{}", "/stream/{}", "/jobs/{}/cancel")


def addresses() -> list[str]:
    """Every address with a place for a form: in the path and, a tenth of them, as a parameter that names something to look up."""
    read = [path for path, _, methods in PAGES if "GET" in methods and "{" not in path]
    pages = [f"{path}?{name}={{}}" for path in read for name in ("atlas", "concept")]
    return [place for page in pages for place in (*IN_PATHS, *IN_PATHS[:2], page)]


def is_refused_by_the_parser(form: str) -> bool:
    return any(ord(c) <= 32 or ord(c) > 126 for c in form)


OVERLONG = {"%c0%ae": ".", "%e0%80%ae": ".", "%uff0e": ".", "\uff0e": ".", "%c0%af": "/", "%e0%80%af": "/", "%f0%80%80%af": "/",
            "%u2215": "/", "%c1%9c": "/", "\uff0f": "/", "\u2215": "/", "\u2025": ".."}  # fmt: skip


def careless(root: Path, form: str) -> set[Path]:
    """What servers that decode once or more, normalise odd characters or cut at NUL would open."""
    found = set()
    for _ in range(4):
        for odd, plain in OVERLONG.items():
            form = form.replace(odd, plain)
        for text in (
            form,
            form.replace("\\", "/"),
            form.replace("..;", "..").replace("....//", "../").partition(";")[0],
        ):
            cut = "".join(c for c in text.partition("\0")[0] if c.isprintable()).partition("::$")[0].rstrip(" .~#/")
            found |= {
                Path(os.path.normpath(f"{root}/{each}"))
                for each in (text, cut, cut.replace(" ", ""))
                if "\0" not in each
            }
        form = unquote(form)
    return found


def test_the_forms_would_find_what_a_careless_server_joins(disk: Path) -> None:
    """The planted truth: joined to a folder, hundreds of these forms do reach a file outside, so the test below can fail."""
    root, found = disk / "atlases" / "some", leaks()
    held: dict[Path, bool] = {}

    def leaky(path: Path) -> bool:
        if path not in held:
            try:
                held[path] = any(leak in path.read_bytes() for leak in found)
            except (OSError, ValueError):
                held[path] = False
        return held[path]

    some = traversals(targets(disk), N)[:2000]
    assert sum(any(map(leaky, careless(root, form))) for form in some) > 200


def test_no_form_brings_anything_from_outside(wire: Wire, disk: Path) -> None:
    forms, places = traversals(targets(disk), N), addresses()
    assert len(set(forms)) == N
    assert not any(map(is_refused_by_the_parser, forms))
    found, statuses = leaks(), {}
    with wire.connect() as sock:
        answers = responses(sock)
        for at, form in enumerate(forms):
            target = places[at % len(places)].format(form.replace("&", "%26"))
            sock.sendall(request_of("GET", target, {"Host": wire.host, **wire.known, "Accept": "text/plain"}))
            reply = next(answers)
            statuses[reply.status] = statuses.get(reply.status, 0) + 1
            assert not [leak for leak in found if leak in reply.body], (target, reply.status)
            assert reply.status < 500, (target, reply.line)
            at_home = reply.headers.get("location", "").startswith(f"http://{wire.host}/")
            absent = reply.status in (400, 404, 405) or reply.body == b"null" or (reply.status == 307 and at_home)
            assert absent or "?" in target, (target, reply.status)
    assert statuses[404] > N / 2


@pytest.mark.parametrize(
    "at",
    [
        "/assets/\0",
        "/assets/..\x01/x",
        "/assets/\xc0\xae\xc0\xae/secret.txt",
        "/assets/.. /secret.txt",
        "\\..\\secret.txt",
    ],
)
def test_raw_bytes_that_no_address_holds_are_refused(wire: Wire, at: str) -> None:
    assert wire.ask("GET", at).status == 400


def test_links_in_an_atlas_are_not_followed_by_any_name(wire: Wire) -> None:
    for name in ("link", "out", "out/secret.txt", "concepts/link"):
        for address in (f"/assets/{name}", f"/concept?concept={name}", f"/?atlas={name}", f"/notes/circuit/{name}"):
            assert CANARY not in wire.ask("GET", address).line
