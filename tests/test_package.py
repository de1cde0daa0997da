"""What people see of the package before they run it: metadata, the page, the reference, completion."""

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from bittern.errors import ModelError
from bittern.format import rangecoder

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_the_readme_is_a_page_that_a_package_index_renders():
    markdown = pytest.importorskip("readme_renderer.markdown", reason="it is not installed")
    page = markdown.render((ROOT / "README.md").read_text())
    assert page is not None
    assert page.count("<table>") >= 2
    assert page.count("<pre") >= 4
    assert "```" not in page


def test_the_citation_is_of_this_version():
    told = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert told["version"] == PROJECT["version"]
    assert {"cff-version", "message", "title", "authors"} <= told.keys()
    assert told["license"] == PROJECT["license"]


def test_types_reach_users(tmp_path):
    assert (ROOT / "src" / "bittern" / "py.typed").exists()
    assert "Typing :: Typed" in PROJECT["classifiers"]


def test_completion_knows_every_command(tmp_path):
    pytest.importorskip("shtab", reason="shtab is not installed")
    script = tmp_path / "bittern.bash"
    script.write_text(run(sys.executable, "-m", "bittern", "completion", "bash"))
    ask = f"source {script}; COMP_WORDS=(bittern %s); COMP_CWORD=1; _shtab_bittern; echo ${{COMPREPLY[@]}}"
    assert run("bash", "-c", ask % "tok").split() == ["tokenize"]
    assert {"compress", "completion"} <= set(run("bash", "-c", ask % "com").split())


@pytest.mark.slow  # imports everything
def test_the_reference_has_what_users_call(tmp_path):
    pytest.importorskip("pdoc", reason="pdoc is not installed")
    run(sys.executable, str(ROOT / "tools" / "reference.py"), str(tmp_path))
    page = (tmp_path / "bittern.html").read_text()
    assert all(
        f'id="{name}"' in page for name in ("load", "Codec", "Codec.encode", "CodingOptions")
    )
    assert 'id="tokenize"' in (tmp_path / "bittern" / "corpus.html").read_text()


def test_a_range_coder_that_has_changed_is_refused(monkeypatch):
    rangecoder.check_library()
    monkeypatch.setattr(rangecoder, "_KNOWN", bytes(12))  # of a library that codes otherwise
    rangecoder.check_library.cache_clear()
    with pytest.raises(ModelError, match=r"constriction [\d.]+ codes otherwise"):
        rangecoder.check_library()
    rangecoder.check_library.cache_clear()
    requirement = next(r for r in PROJECT["dependencies"] if r.startswith("constriction"))
    assert "<0.6" in requirement


def test_every_extra_is_told_where_its_package_is_missing(tmp_path):
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\nsys.modules.update(dict.fromkeys(['pyarrow', 'shtab', 'huggingface_hub', 'ray']))\n"
    )
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    for argv, extra in (
        (["completion", "bash"], "completion"),
        (["push", "speech-16khz", "org/name"], "hub"),
        (["tokenize", str(ROOT / "examples"), str(tmp_path / "a"), "--workers", "1"], "corpus"),
        (["tokenize", str(ROOT / "examples"), str(tmp_path / "b"), "--cluster", "auto"], "cluster"),
    ):
        done = subprocess.run(
            [sys.executable, "-m", "bittern", *argv],
            capture_output=True,
            text=True,
            timeout=120,
            env=os.environ | {"PYTHONPATH": path},
        )
        assert done.returncode == 1
        assert f"is not installed; pip install 'bittern[{extra}]'" in done.stderr.splitlines()[-1]
