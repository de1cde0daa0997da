"""`bittern-train` and `scripts/train.py`: from the command line to a run."""

import sys
from pathlib import Path

import hydra
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from bittern.checkpoint import write_atomically
from bittern.errors import CodecError, ConfigError
from bittern.training.settings import resolve
from bittern.training.trainer import Trainer


def config_folder() -> Path:
    """`configs/` of the repository, or its copy in an installed package."""
    package = Path(__file__).resolve().parents[1]
    candidates = [package / "configs", package.parents[1] / "configs"]
    return next(folder for folder in candidates if folder.is_dir())


@hydra.main(version_base="1.3", config_path=str(config_folder()), config_name="train")
def _train(cfg: DictConfig) -> None:
    try:
        config = resolve(cfg)
        folder = Path(config.run)
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / "train.yaml", OmegaConf.to_yaml(cfg).encode())
        Trainer(config).fit()
    except CodecError as error:
        print(f"bittern-train: {error}", file=sys.stderr)  # noqa: T201
        sys.exit(error.exit_code)


def main() -> None:
    """Train a codec; arguments are Hydra's, such as `data.root=FOLDER steps=20000`."""
    overrides = [argument for argument in sys.argv[1:] if not argument.startswith("-")]
    if len(overrides) == len(sys.argv[1:]):  # with flags, such as --help, Hydra speaks for itself
        _refuse_unknown(overrides)
    _train()


def _refuse_unknown(overrides: list[str]) -> None:
    """Report what Hydra cannot compose in one line; its own report takes several."""
    try:
        with hydra.initialize_config_dir(str(config_folder()), version_base="1.3"):
            hydra.compose("train", overrides)
    except (HydraException, OmegaConfBaseException) as error:
        cause = error.__cause__ or error
        lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
        print(f"bittern-train: {lines[0]}; see configs/train.yaml", file=sys.stderr)  # noqa: T201
        sys.exit(ConfigError.exit_code)
