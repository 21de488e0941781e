"""The house: files and functions stay small, nothing dangerous is called, and a check says what it covered.

The limits are those of the project's style: file cap 400 lines (median at most 120), function cap 60 lines without its docstring
(median at most 10, nine in ten at most 35), cyclomatic complexity at most 10, at most 8 parameters.
"""

import ast
from pathlib import Path
from statistics import median, quantiles

import pytest

SRC = Path(__file__).parents[1] / "src" / "conceptlab"
FILES = sorted(SRC.rglob("*.py"))
FILE_CAP, FUNCTION_CAP, COMPLEXITY_CAP = 400, 60, 10
LARGER_FOR_A_REASON: dict[str, str] = {}  # "file.py" or "file.py:function" -> why

BANNED_MODULES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "shelve", "marshal", "joblib"}
BANNED_CALLS = {
    "eval",
    "exec",
    "yaml.load",
    "yaml.unsafe_load",
    "yaml.full_load",
    "os.system",
    "os.popen",
    "torch.hub.load",
}
BANNED_KEYWORDS = {"shell", "trust_remote_code", "allow_pickle"}

FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def functions(tree: ast.AST) -> list[FunctionNode]:
    return [node for node in ast.walk(tree) if isinstance(node, FunctionNode)]


def length(node: FunctionNode) -> int:
    """Lines of a function without its docstring."""
    body = node.body[1:] if ast.get_docstring(node) is not None else node.body
    head = node.body[0].lineno - node.lineno
    return head + (node.end_lineno or 0) - body[0].lineno + 1 if body else head


def complexity(node: FunctionNode) -> int:
    branches = (ast.If, ast.For, ast.AsyncFor, ast.While, ast.ExceptHandler, ast.match_case)
    own = [n for n in ast.walk(node) if n is not node]
    return 1 + sum(isinstance(n, branches) for n in own) + sum(isinstance(n, FunctionNode) for n in own)


def called(node: ast.Call) -> str:
    return ast.unparse(node.func)


def name(path: Path) -> str:
    return str(path.relative_to(SRC))


def test_files_and_functions_stay_small(capsys: pytest.CaptureFixture[str]) -> None:
    lines = {
        name(path): len(path.read_text(encoding="utf-8").splitlines()) for path in FILES if path.name != "__init__.py"
    }
    found = {f"{name(path)}:{node.name}": node for path in FILES for node in functions(tree_of(path))}
    lengths = {where: length(node) for where, node in found.items()}
    branchy = {where: complexity(node) for where, node in found.items()}
    ninth = quantiles(lengths.values(), n=10)[-1]
    with capsys.disabled():
        print(
            f"\nhouse: {len(lines)} files, median {median(lines.values()):.0f}, longest {max(lines.values())} lines; "
            f"{len(lengths)} functions, median {median(lengths.values()):.0f}, nine in ten {ninth:.0f}, "
            f"longest {max(lengths.values())} lines; complexity at most {max(branchy.values())}"
        )
    too_large = [f"{w} {n}" for w, n in lines.items() if n > FILE_CAP and w not in LARGER_FOR_A_REASON]
    too_large += [f"{w} {n}" for w, n in lengths.items() if n > FUNCTION_CAP and w not in LARGER_FOR_A_REASON]
    too_large += [
        f"{w} complexity {n}" for w, n in branchy.items() if n > COMPLEXITY_CAP and w not in LARGER_FOR_A_REASON
    ]
    assert not too_large
    assert median(lines.values()) <= 120
    assert median(lengths.values()) <= 10
    assert ninth <= 35
    assert set(LARGER_FOR_A_REASON) <= {*lines, *lengths}, "an exception that is not needed any more"


def offences(path: Path) -> list[str]:
    """Every dangerous thing in one file, with its line."""
    found = []
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            found += [f"imports {a.name}" for a in node.names if a.name.split(".")[0] in BANNED_MODULES]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in BANNED_MODULES:
            found.append(f"imports {node.module}")
        elif isinstance(node, ast.Call):
            found += [f"line {node.lineno}: {what}" for what in dangers(node)]
    return [f"{path.name}: {what}" for what in found]


def dangers(node: ast.Call) -> list[str]:
    found, keywords = [], {k.arg: k.value for k in node.keywords}
    if called(node) in BANNED_CALLS:
        found.append(f"calls {called(node)}")
    if called(node) in ("torch.load", "load_state_dict_from_url") and not is_true(keywords.get("weights_only")):
        found.append("torch.load without weights_only=True")
    for keyword in BANNED_KEYWORDS & keywords.keys():
        if is_true(keywords[keyword]):
            found.append(f"{called(node)}({keyword}=True)")
    return found


def is_true(node: ast.expr | None) -> bool:
    return isinstance(node, ast.Constant) and node.value is True


def test_nothing_dangerous_is_called(capsys: pytest.CaptureFixture[str]) -> None:
    found = [offence for path in FILES for offence in offences(path)]
    n_calls = sum(isinstance(node, ast.Call) for path in FILES for node in ast.walk(tree_of(path)))
    with capsys.disabled():
        print(f"house: {len(FILES)} files and {n_calls} calls searched for pickle, eval, exec, shell and remote code")
    assert not found
    assert len(FILES) >= 50
    assert n_calls > 1000


@pytest.mark.parametrize(
    "code",
    [
        "import pickle",
        "from joblib import load",
        "eval('1')",
        "exec(code)",
        "yaml.load(file)",
        "subprocess.run(line, shell=True)",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "np.load(path, allow_pickle=True)",
        "AutoModel.from_pretrained(name, trust_remote_code=True)",
        "os.system('ls')",
    ],
)
def test_the_search_sees_what_it_searches_for(tmp_path: Path, code: str) -> None:
    (tmp_path / "bad.py").write_text(code)
    assert offences(tmp_path / "bad.py")


def test_a_broad_except_says_why() -> None:
    silent = []
    for path in FILES:
        text = path.read_text(encoding="utf-8").splitlines()
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.ExceptHandler) and is_broad(node) and "#" not in text[node.lineno - 1]:
                silent.append(f"{name(path)}:{node.lineno}")
    assert not silent


def is_broad(node: ast.ExceptHandler) -> bool:
    kinds = node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]
    return any(kind is None or ast.unparse(kind) in ("Exception", "BaseException") for kind in kinds) and not reraises(
        node
    )


def reraises(node: ast.ExceptHandler) -> bool:
    """Cleaning up and raising the same error again hides nothing."""
    last = node.body[-1]
    return isinstance(last, ast.Raise) and last.exc is None


def test_every_module_says_what_it_is() -> None:
    mute = [
        name(path)
        for path in FILES
        if path.read_text(encoding="utf-8").strip() and not ast.get_docstring(tree_of(path))
    ]
    assert not mute
