"""Train a codec: python scripts/train.py data.root=FOLDER [steps=20000] [run=runs/NAME] ..."""

from bittern.training.run import main

if __name__ == "__main__":
    main()
