"""What README says must be so: its snippets run, its links lead somewhere, its commands exist."""

import re
import shlex
from pathlib import Path

import pytest

from bittern.cli import _parser

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def test_the_python_snippet_runs_as_written():
    (snippet,) = blocks("python")
    names: dict = {}
    exec(compile(snippet, "README.md", "exec"), names)
    assert names["codes"].shape == (1, 12, 51)
    assert names["again"].shape == names["coarse"].shape == names["wav"].shape
    assert names["audio"].wav.shape == (1, 16_000)


def test_every_link_to_a_file_leads_to_one():
    links = [link for link in re.findall(r"\]\(([^)]+)\)", README) if "://" not in link]
    assert len(links) > 10
    for link in links:
        assert (ROOT / link).exists(), link


def commands():
    for block in blocks("sh"):
        for line in block.splitlines():
            for part in re.split(r"[|']", line.split("#")[0]):
                if part.strip().startswith("bittern "):
                    yield part.split("bittern ", 1)[1].strip()


@pytest.mark.parametrize("command", list(commands()))
def test_every_bittern_command_has_the_options_it_is_shown_with(command):
    argv = shlex.split(command)
    assert _parser(argv).parse_args(argv)


def test_every_make_target_exists():
    makefile = (ROOT / "Makefile").read_text()
    targets = re.findall(r"(?:^|`)make ([a-z-]+)", README, flags=re.MULTILINE)
    assert {"demo", "test"} <= set(targets)
    for target in targets:
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target
