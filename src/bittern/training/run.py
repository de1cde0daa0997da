"""`bittern train` and `scripts/train.py`: from the command line to a run."""

import os
import re
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import NoReturn

import hydra
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from bittern.audio.atomic import write_atomically
from bittern.errors import CodecError, ConfigError
from bittern.training.settings import TrainConfig, resolve
from bittern.training.state import hold
from bittern.training.trainer import Trainer

_PATHS = ("data.root", "data.cache", "run", "init")


def config_folder() -> Path:
    """`configs/` of the repository, or its copy in an installed package."""
    package = Path(__file__).resolve().parents[1]
    candidates = [package / "configs", package.parents[1] / "configs"]
    return next(folder for folder in candidates if folder.is_dir())


def compose(overrides: list[str]) -> TrainConfig:
    """The settings that `configs/train.yaml` gives with overrides as on the command line.

    Raises:
        ConfigError: in one line, where Hydra's own report takes several.
    """
    try:
        with hydra.initialize_config_dir(str(config_folder()), version_base="1.3"):
            return resolve(hydra.compose("train", overrides))
    except (HydraException, OmegaConfBaseException) as error:
        cause = error.__cause__ or error
        lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
        raise ConfigError(f"{lines[0]}; see configs/train.yaml") from None


def _run(cfg: DictConfig) -> None:
    """One run of what Hydra composed, of which there may be several with --multirun."""
    config = None
    try:
        config = resolve(cfg)
        with hold(Path(config.run)) if _first() else nullcontext():
            trainer = Trainer(config)
            if trainer.fabric.is_global_zero:
                write_atomically(Path(config.run) / "train.yaml", OmegaConf.to_yaml(cfg).encode())
            trainer.fit()
    except CodecError as error:
        _fail(error)
    except OSError as error:  # a disk that is full or gone
        where = error.filename or (config.run if config else "the run's folder")
        _fail(CodecError(f"{where}: the run cannot go on ({error.strerror or error})"))


def _first() -> bool:
    """Whether this is the first process of a run, before Fabric is asked."""
    ranks = ("RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID")
    return all(os.environ.get(rank, "0") == "0" for rank in ranks)


def as_typed(arguments: list[str]) -> list[str]:
    """Overrides whose paths are quoted so that Hydra takes their letters as they are.

    `--data FOLDER` is data.root, whatever the folder is called.

    Raises:
        ConfigError: no folder follows.
    """
    given, rest = [], iter(arguments)
    for argument in rest:
        key, equals, value = argument.partition("=")
        if key == "--data":
            value = value if equals else next(rest, "")
            if not value:
                raise ConfigError("--data needs a folder of audio after it")
            argument = f"data.root={_quoted(value)}"
        elif (
            key in _PATHS
            and equals
            and value not in ("null", "???")
            and value[:1] not in ("'", '"')
        ):
            argument = f"{key}={_quoted(value)}"
        given.append(argument)
    return given


def _quoted(value: str) -> str:
    """A value of which Hydra and OmegaConf leave every letter as it is."""
    value = value.replace("${", "\\${")
    doubled = re.sub(r"(\\*)('|$)", lambda m: 2 * m[1] + ("\\'" if m[2] else ""), value)
    return f"'{doubled}'"


def main(arguments: list[str] | None = None) -> None:
    """Train a codec.

    Args:
        arguments: `--data FOLDER` and Hydra's, such as `steps=20000`; by default the command line's.
    """
    command = sys.argv
    given = command[1:] if arguments is None else arguments
    try:
        if not {"-m", "--multirun"} & set(given):  # where a comma divides
            given = as_typed(given)
    except ConfigError as error:
        _fail(error)
    if not any(argument.startswith("-") for argument in given):
        try:
            compose(given)
        except CodecError as error:
            _fail(error)

    @hydra.main(version_base="1.3", config_path=str(config_folder()), config_name="train")
    def run(cfg: DictConfig) -> None:
        sys.argv = command  # Fabric starts the processes of further devices with it
        _run(cfg)

    sys.argv = [command[0], *given]  # where Hydra looks
    run()


def _fail(error: CodecError) -> NoReturn:
    print(f"bittern: {error}", file=sys.stderr)  # noqa: T201
    sys.exit(error.exit_code)
