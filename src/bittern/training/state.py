"""What a run needs to go on as if it had never stopped, written so that a kill at any moment leaves one.

The newest state is `state.pt`, the one before it `state.previous.pt`; a damaged newest falls back.
"""

import io
import os
import pickle
import zipfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bittern.audio.atomic import is_temporary, write_atomically
from bittern.errors import ConfigError, ModelError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

NEWEST, PREVIOUS = "state.pt", "state.previous.pt"
INHERITANCE = "training.pt"  # beside a checkpoint's weights, for fine-tuning


def save_state(folder: Path, state: dict[str, Any]) -> None:
    """Write `state` (tensors, numbers, strings, containers) and keep the one before."""
    folder.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    torch.save(state, buffer)
    newest, previous = folder / NEWEST, folder / PREVIOUS
    if newest.exists():
        spare = folder / f".{PREVIOUS}"
        spare.unlink(missing_ok=True)
        try:
            os.link(newest, spare)  # at no moment is there neither file
        except OSError:  # a file system without hard links
            write_atomically(spare, newest.read_bytes())
        spare.replace(previous)
    write_atomically(newest, buffer.getvalue())


def load_state(folder: Path) -> tuple[dict[str, Any], str | None] | None:
    """The newest state that can be read, with a warning if that is not the newest; None if there is none.

    Raises:
        ModelError: states are there but none can be read.
    """
    failures = []
    for name in (NEWEST, PREVIOUS):
        path = folder / name
        if not path.exists():
            continue
        try:
            state = _read(path)
        except ModelError as error:
            failures.append(str(error))
            continue
        warning = f"{failures[0]}; going on from {name}" if failures else None
        return state, warning
    if failures:
        raise ModelError(f"{'; '.join(failures)}; delete the files to start anew")
    return None


def remove_leftovers(folder: Path) -> None:
    """Delete what writes that were killed halfway left in a run's folder: names that we make, no others."""
    for place in (folder, folder / "last", folder / "best"):
        if place != folder and place.is_symlink():
            continue
        for path in place.glob(".*"):
            if path.name == f".{PREVIOUS}" or is_temporary(path):
                path.unlink(missing_ok=True)


def save_inheritance(folder: Path, state: dict[str, Any]) -> None:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    write_atomically(folder / INHERITANCE, buffer.getvalue())


def load_inheritance(folder: Path) -> dict[str, Any]:
    """What was saved beside a checkpoint; empty if nothing was.

    Raises:
        ModelError: it cannot be read.
    """
    path = folder / INHERITANCE
    return _read(path) if path.exists() else {}


def _read(path: Path) -> dict[str, Any]:
    """A state; nothing in it is executed, or unpacked to more than its size.

    Raises:
        ModelError: it is none.
    """
    try:
        with zipfile.ZipFile(path) as parts:
            unpacked = sum(part.file_size for part in parts.infolist())
        if unpacked > path.stat().st_size:
            raise ValueError("it unpacks to more than its size")
        state = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(state, dict):
            raise ValueError("it is no state of a run")
    except (zipfile.BadZipFile, RuntimeError, EOFError, OSError, pickle.UnpicklingError) as error:
        what = error.strerror if isinstance(error, OSError) else "damaged, or not written by a run"
        raise ModelError(f"{path}: cannot be read ({what})") from None
    except (LookupError, ValueError, TypeError, AttributeError, AssertionError) as error:
        raise ModelError(f"{path}: cannot be read ({type(error).__name__}: {error})") from None
    return state


@contextmanager
def hold(folder: Path) -> Generator[None]:
    """Keep other runs out of a run's folder; where its file system has no locks, do not.

    Raises:
        ConfigError: another run is in it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        try:
            if fcntl is not None:  # of this process alone: workers do not outlive it with the lock
                fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            raise ConfigError(f"{folder}: another run is in it; give another run=FOLDER") from None
        except OSError:
            pass
        yield


def fits(given: Any, own: Any) -> bool:
    """Whether a state could have come from a part of our make: the same keys, tensors, shapes.

    Optimizers hold tensors of their own only after a first step; those they have not yet are let pass.
    """
    if isinstance(given, Tensor) and isinstance(own, Tensor):
        return given.shape == own.shape
    if isinstance(given, dict) and isinstance(own, dict):
        return all(key in given and fits(given[key], own[key]) for key in own)
    if isinstance(given, list) and isinstance(own, list):
        return len(given) == len(own) and all(map(fits, given, own))
    return type(given) is type(own)


def with_settings(given: Any, own: Any) -> Any:
    """A given state with our optimizers' settings (betas, weight decay) in place of its own."""
    if not isinstance(given, dict):
        return given
    return {
        key: own[key] if key == "param_groups" else with_settings(value, own.get(key))
        for key, value in given.items()
        if isinstance(own, dict)
    } or given
