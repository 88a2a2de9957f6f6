"""Who may import whom: fedge_agent -> fedge_transport -> fedge_protocol <- fedge_coordinator, and what each may use."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = {
    "fedge_agent": ROOT / "agent" / "fedge_agent",
    "fedge_coordinator": ROOT / "coordinator" / "fedge_coordinator",
    "fedge_protocol": ROOT / "protocol" / "fedge_protocol",
    "fedge_transport": ROOT / "protocol" / "fedge_transport",
}
# What a package may import beside itself and the standard library; None: anything that pyproject.toml declares.
THIRD_PARTY = {
    "fedge_protocol": {"cbor2", "cryptography", "msgspec", "numpy", "Crypto.Hash.keccak"},
    "fedge_transport": {"paho"},
    "fedge_agent": None,
    "fedge_coordinator": None,
}
OURS = {
    "fedge_protocol": set(),
    "fedge_transport": {"fedge_protocol"},
    "fedge_agent": {"fedge_protocol", "fedge_transport"},
    "fedge_coordinator": {"fedge_protocol", "fedge_transport"},
}
INPUT_OUTPUT = {
    "asyncio", "concurrent", "ctypes", "fcntl", "ftplib", "http", "io", "logging", "mmap", "multiprocessing", "pathlib",
    "queue", "selectors", "shutil", "signal", "smtplib", "socket", "socketserver", "sqlite3", "ssl", "subprocess",
    "tempfile", "threading", "urllib", "webbrowser", "xmlrpc",
}  # fmt: skip
HEAVY = {
    "numpy", "tflite_runtime", "ai_edge_litert", "eth_account", "pyroute2", "bcc", "matplotlib", "yaml",
    "httpx", "sqlalchemy", "click", "rich",
}  # fmt: skip
IDLE_MODULES = (
    "fedge_agent.daemon",
    "fedge_agent.cli",
    "fedge_agent.kernel.execution",
    "fedge_agent.kernel.command_line",
)


@dataclass(frozen=True)
class Import:
    """One import statement's module; `at_import` when it runs as the importing module is imported."""

    module: str
    line: int
    at_import: bool

    @property
    def top(self) -> str:
        return self.module.partition(".")[0]

    def is_below(self, names: set[str]) -> bool:
        return any(self.module == name or self.module.startswith(f"{name}.") for name in names)


def is_type_checking(node: ast.stmt) -> bool:
    if not isinstance(node, ast.If):
        return False
    name = node.test.attr if isinstance(node.test, ast.Attribute) else getattr(node.test, "id", "")
    return name == "TYPE_CHECKING"


def imports_of(source: str, package: str = "") -> Iterator[Import]:
    """All imports of a module: those of types only are left out, calls of `import_module("...")` are in."""
    yield from _imports(ast.parse(source), package, at_import=True)


def _imports(node: ast.AST, package: str, *, at_import: bool) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        match child:
            case ast.Import(names=names):
                yield from (Import(alias.name, child.lineno, at_import) for alias in names)
            case ast.ImportFrom(module=module, names=names, level=level):
                base = ".".join(part for part in (package if level else "", module or "") if part)
                yield from (Import(f"{base}.{alias.name}", child.lineno, at_import) for alias in names)
            case ast.Call(func=function, args=[ast.Constant(value=str(name)), *_]) if getattr(
                function, "attr", getattr(function, "id", "")
            ) in {"import_module", "__import__"}:
                yield Import(name, child.lineno, at_import=False)
            case ast.If() if is_type_checking(child):
                yield from _imports(ast.Module(child.orelse, []), package, at_import=at_import)
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.Lambda():
                yield from _imports(child, package, at_import=False)
            case _:
                yield from _imports(child, package, at_import=at_import)


MODULES = [
    pytest.param(owner, path, id=f"{owner}/{path.relative_to(folder)}")
    for owner, folder in SOURCES.items()
    for path in sorted(folder.rglob("*.py"))
]


@pytest.mark.parametrize(("owner", "path"), MODULES)
def test_a_module_imports_only_what_its_package_may(owner: str, path: Path) -> None:
    third_party, ours = THIRD_PARTY[owner], OURS[owner] | {owner}
    wrong = []
    for found in imports_of(path.read_text(), owner):
        if found.top in SOURCES:
            allowed = found.top in ours
        elif found.top in sys.stdlib_module_names:
            allowed = owner != "fedge_protocol" or found.top not in INPUT_OUTPUT
        else:
            allowed = third_party is None or found.is_below(third_party)
        if not allowed:
            wrong.append(f"line {found.line}: {found.module}")
    assert wrong == []


@pytest.mark.parametrize("owner", SOURCES)
def test_a_package_itself_imports_nothing(owner: str) -> None:
    assert list(imports_of((SOURCES[owner] / "__init__.py").read_text(), owner)) == []


def test_the_protocol_opens_no_file() -> None:
    opened = [
        f"{path.name}:{node.lineno}: {node.func.id}"
        for path in sorted(SOURCES["fedge_protocol"].rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in {"open", "print", "input"}
    ]
    assert opened == []


def module_file(name: str) -> Path | None:
    """The file of one of our modules; None for a name that is no module, as in `from module import function`."""
    top, _, rest = name.partition(".")
    if top not in SOURCES:
        return None
    place = SOURCES[top].joinpath(*rest.split(".")) if rest else SOURCES[top]
    found = [path for path in (place.with_suffix(".py"), place / "__init__.py") if path.is_file()]
    return found[0] if found else None


def reached_at_import(start: str) -> dict[str, str]:
    """Every module outside of ours that importing `start` imports, with the chain that leads to it."""
    outside: dict[str, str] = {}
    seen: set[Path] = set()
    waiting = [(start, start)]
    while waiting:
        name, chain = waiting.pop()
        parts = name.split(".")
        for depth in range(1, len(parts) + 1):  # a module's packages are imported before it
            file = module_file(".".join(parts[:depth]))
            if file is None or file in seen:
                continue
            seen.add(file)
            for found in imports_of(file.read_text()):
                if not found.at_import:
                    continue
                if found.top in SOURCES:
                    waiting.append((found.module, f"{chain} -> {found.module}"))
                else:
                    outside.setdefault(found.top, f"{chain} -> {found.module}")
    return outside


@pytest.mark.parametrize("name", IDLE_MODULES)
def test_no_chain_of_imports_leads_from_the_daemon_to_what_an_idle_device_must_not_pay_for(name: str) -> None:
    outside = reached_at_import(name)
    assert len(outside) > 5, "the walk found nothing: it is broken"
    assert {module: chain for module, chain in outside.items() if module in HEAVY} == {}


@pytest.mark.parametrize("name", IDLE_MODULES)
def test_importing_the_daemon_for_real_loads_nothing_heavy_and_nothing_of_the_coordinator(name: str) -> None:
    unwanted = sorted(HEAVY | {"fedge_coordinator"})
    program = f"import sys, {name}; print(*[name for name in {unwanted} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert done.stdout.split() == []


def test_the_walk_sees_every_way_to_import() -> None:
    source = """
import numpy as np
from typing import TYPE_CHECKING
if TYPE_CHECKING:
    import only_for_types
else:
    import otherwise
try:
    from a import b
except ImportError:
    from .near import c
def later():
    import numpy.linalg
    return importlib.import_module("by.name")
class Body:
    import inside
"""
    found = {(one.module, one.at_import) for one in imports_of(source, "package")}
    assert found == {
        ("numpy", True), ("typing.TYPE_CHECKING", True), ("otherwise", True), ("a.b", True), ("package.near.c", True),
        ("numpy.linalg", False), ("by.name", False), ("inside", True),
    }  # fmt: skip
