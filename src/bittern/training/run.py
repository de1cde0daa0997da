"""`bittern-train` and `scripts/train.py`: from the command line to a run."""

import sys
from pathlib import Path

import hydra
from omegaconf import DictConfig, OmegaConf

from bittern.checkpoint import write_atomically
from bittern.errors import CodecError
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
    _train()
