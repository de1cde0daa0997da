"""The package stays small enough to be read: what is added makes room for itself."""

import ast
import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "bittern"
MODULES = sorted(PACKAGE.rglob("*.py"))
README = (ROOT / "README.md").read_text()

CEILING = 20_000  # lines of Python; to go down to 13,000, never up
MOST_NAMES, LONGEST_MODULE, LONGEST_FUNCTION = 17, 600, 60
REPEATED = 12  # lines that no two places share


def lines_of(path: Path) -> list[str]:
    return path.read_text().splitlines()


def functions(path: Path) -> Iterator[tuple[str, int]]:
    """Every function and method of a module with its lines, docstring and decorators included."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
            yield node.name, (node.end_lineno or first) - first + 1


def test_the_package_stays_below_its_ceiling():
    assert sum(len(lines_of(path)) for path in MODULES) <= CEILING


def test_its_root_is_a_table_of_contents():
    names = {path.name for path in PACKAGE.iterdir()} - {"__pycache__", "py.typed"}
    assert len(names) <= MOST_NAMES, sorted(names)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_modules_and_functions_are_short(path):
    assert len(lines_of(path)) <= LONGEST_MODULE
    long = {name: size for name, size in functions(path) if size > LONGEST_FUNCTION}
    assert not long


def test_nothing_is_written_twice():
    seen: dict[str, str] = {}
    for path in MODULES:
        code = [line.strip() for line in lines_of(path)]
        for start in range(len(code) - REPEATED + 1):
            passage = code[start : start + REPEATED]
            if sum(1 for line in passage if len(line) > 3) < REPEATED - 2:
                continue  # brackets and blank lines
            place = f"{path.relative_to(PACKAGE)}:{start + 1}"
            first = seen.setdefault("\n".join(passage), place)
            assert first == place, f"{first} and {place} share {REPEATED} lines"


def test_readme_names_files_of_the_size_it_says():
    named = re.findall(r"\((src/bittern/[\w/.]+)\) \(about (\d+) lines\)", README)
    assert len(named) >= 8
    for name, said in named:
        assert len(lines_of(ROOT / name)) == pytest.approx(int(said), rel=0.15), name
    places = [README.index(name) for name, _ in named]
    assert all(first < second for first, second in pairwise(places))
