"""What README and docs say must be so: snippets run, links lead somewhere, commands exist."""

import re
import shlex
from pathlib import Path

import pytest
import torch

from bittern.cli import _parser

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
DOCS = {
    path.relative_to(ROOT / "docs").as_posix(): path.read_text()
    for path in sorted((ROOT / "docs").rglob("*.md"))
}


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def test_the_python_snippet_runs_as_written():
    (snippet,) = blocks("python")
    names: dict = {}
    exec(compile(snippet, "README.md", "exec"), names)
    assert names["codes"].shape == (1, 12, 51)
    assert names["again"].shape == names["coarse"].shape == names["wav"].shape
    assert names["audio"].wav.shape == (1, 16_000)


def test_the_streaming_snippet_runs_as_written(tiny_codec):
    (snippet,) = re.findall(r"```python\n(.*?)```", DOCS["streaming.md"], flags=re.DOTALL)
    snippet = snippet.replace("stages=12", "stages=8")  # as many as the small codec has
    names = {"codec": tiny_codec, "wav": torch.zeros(1, 1, 1_000)}
    exec(compile(snippet, "streaming.md", "exec"), names)
    assert names["samples"].shape == (1, 1, 5 * 320 - 3 * 320)  # what the flush brings


@pytest.mark.filterwarnings("ignore")  # torch.export's own
def test_the_snippets_for_research_run_as_written(tmp_path):
    names = {"folder": tmp_path}
    snippets = re.findall(r"```python\n(.*?)```", DOCS["research.md"], flags=re.DOTALL)
    assert len(snippets) == 9
    for snippet in snippets:
        exec(compile(snippet, "research.md", "exec"), names)
    assert names["again"].shape == names["audio"].shape == (2, 1, 32_000)
    assert names["quick"].shape == names["codes"].shape == (2, 8, 101)
    assert names["varied"].min() == -1


def test_every_link_to_a_file_leads_to_one():
    pages = {ROOT / "README.md": README} | {ROOT / "docs" / k: v for k, v in DOCS.items()}
    links = {
        (page.parent / link.split("#")[0])
        for page, text in pages.items()
        for link in re.findall(r"\]\(([^)]+)\)", text)
        if "://" not in link and not link.startswith("#")
    }
    assert len(links) >= 20
    assert not [str(link) for link in links if not link.exists()]


def commands():
    shown = "".join(blocks("sh"))
    for page in DOCS.values():
        shown += "".join(re.findall(r"(?m)^ {4}.*\n", page.replace("\\\n", "")))
    for line in shown.splitlines():
        for part in re.split(r"[|']", line.split("#")[0]):
            if part.strip().startswith("bittern ") and "..." not in part and "{" not in line:
                yield part.split("bittern ", 1)[1].strip()


@pytest.mark.parametrize("command", sorted(set(commands())))
def test_every_bittern_command_has_the_options_it_is_shown_with(command):
    argv = shlex.split(command)
    assert _parser(argv).parse_args(argv)


def test_every_make_target_exists():
    makefile = (ROOT / "Makefile").read_text()
    targets = re.findall(r"(?:^|`)make ([a-z-]+)", README, flags=re.MULTILINE)
    assert {"demo", "test"} <= set(targets)
    for target in targets:
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target
