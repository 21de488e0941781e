"""`make docs`: what is generated from the code. `--check` fails when a page is stale (a test calls it)."""

import argparse
import ast
import os
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "conceptlab"
COMMANDS = ((), ("map",), ("models", "check"), ("atlas", "show"), ("atlas", "export"))


def cards() -> list[tuple[str, dict]]:
    """(file, CARD) of every method, read without importing it."""
    found = []
    for path in sorted(SOURCE.rglob("*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "CARD":
                card = ast.literal_eval(node.value)
                found += [(str(path.relative_to(SOURCE)), card)] if isinstance(card, dict) else []
    return found


def methods_page() -> str:
    """docs/methods.md: one row a method."""
    rows = [
        f"| {c['name']} | `{file}` | {c['takes']} | {c['returns']} | {c['cost']} | {c['paper']} |"
        for file, c in cards()
    ]
    head = "| method | file | takes | returns | cost | source |\n|---|---|---|---|---|---|\n"
    return f"# Methods\n\nGenerated from the `CARD` of each file by `make docs`.\n\n{head}" + "\n".join(rows) + "\n"


def cli_page() -> str:
    """docs/cli.md: the help of every command."""
    parts = ["# Command line\n\nGenerated from `--help` by `make docs`.\n"]
    environment = {**os.environ, "COLUMNS": "100", "NO_COLOR": "1", "TERM": "dumb"}
    for command in COMMANDS:
        call = [sys.executable, "-c", "from conceptlab.cli import main; main()", *command, "--help"]
        text = subprocess.run(call, capture_output=True, text=True, env=environment, check=True).stdout
        lines = "\n".join(line.rstrip() for line in text.strip().splitlines())
        parts.append(
            f"## `conceptlab {' '.join(command)}`\n\n```text\n{lines}\n```\n".replace("conceptlab `", "conceptlab`")
        )
    return "\n".join(parts)


def layers() -> list[str]:
    """The import order, top first, as import-linter holds it."""
    config = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    return config["tool"]["importlinter"]["contracts"][0]["layers"]


def first_sentence(layer: str) -> str:
    """What a layer is, in the words of its own docstring."""
    path = SOURCE / layer / "__init__.py"
    path = path if path.exists() else SOURCE / f"{layer}.py"
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return text.split("\n")[0].rstrip(".")


def order_picture() -> str:
    """docs/import_order.svg: one row a layer; a file may import from rows below it, never from above."""
    rows, height = layers(), 34
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 1010 {len(rows) * height + 24}" '
        'font-family="system-ui, sans-serif" font-size="14" role="img" aria-label="the import order, top first">',
        "<style>rect{fill:#e8eef6;stroke:#5b7ba6}text{fill:#1c2733}path{stroke:#5b7ba6;fill:none}"
        "@media(prefers-color-scheme:dark){rect{fill:#22303f}text{fill:#e6edf5}}</style>",
    ]
    for i, layer in enumerate(rows):
        y = 12 + i * height
        parts.append(f'<rect x="30" y="{y}" width="120" height="26" rx="4"/>')
        parts.append(f'<text x="90" y="{y + 18}" text-anchor="middle" font-weight="600">{layer}</text>')
        parts.append(f'<text x="166" y="{y + 18}">{_escaped(first_sentence(layer))}</text>')
    bottom = 12 + len(rows) * height - 8
    parts.append(f'<path d="M14 14 V{bottom} M9 {bottom - 7} L14 {bottom} L19 {bottom - 7}"/></svg>')
    return "\n".join(parts) + "\n"


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace("`", "")


PAGES = {"methods.md": methods_page, "cli.md": cli_page, "import_order.svg": order_picture}


def main() -> int:
    """Write the generated pages, or with --check say which are stale."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    stale = []
    for name, make in PAGES.items():
        path, text = ROOT / "docs" / name, make()
        if check and (not path.exists() or path.read_text(encoding="utf-8") != text):
            stale.append(name)
        elif not check:
            path.write_text(text, encoding="utf-8")
    if stale:
        print(f"stale: {', '.join(stale)}; run make docs")
    return int(bool(stale))


if __name__ == "__main__":
    raise SystemExit(main())
