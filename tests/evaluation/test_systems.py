import shutil

from bittern.checkpoint import find
from bittern.entropy import ENTROPY_FILE
from bittern.evaluation.systems import model_family


def test_results_with_and_without_an_entropy_model_are_kept_apart(tmp_path):
    """They sound alike and differ in the bytes that are counted."""
    shipped = find("speech-16khz")
    copy = tmp_path / "raw"
    shutil.copytree(shipped, copy)
    same = model_family(str(copy), [4])
    (copy / ENTROPY_FILE).unlink()
    raw = model_family(str(copy), [4])
    identities = [f.systems[0].identity for f in (model_family(str(shipped), [4]), same, raw)]
    assert identities[0] == identities[1] != identities[2]
