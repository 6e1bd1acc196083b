"""The command line of training.

    python -m course_lib.training --model mnist_cnn --method standard

writes data/weights/mnist_cnn.safetensors, its sha256 and a card that says how good it is.
"""

from __future__ import annotations

import argparse
import sys
from fractions import Fraction
from pathlib import Path

from course_lib import cards, distributed, models, runtime
from course_lib.training.augment import crop_and_flip, jitter
from course_lib.training.checkpoint import History
from course_lib.training.loop import METHODS, fit, in_bfloat16
from course_lib.training.weights import initialise, save

# How the command line says it.
_BF16: dict[str, bool | str] = {"auto": "auto", "yes": True, "no": False}


def main(arguments: list[str] | None = None) -> None:
    """The command behind each file in data/weights."""
    parser = argparse.ArgumentParser(prog="python -m course_lib.training", description=__doc__)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--model", choices=models.trainable(), help="train it")
    what.add_argument("--card", choices=models.trainable(),
                      help="measure the weights that ship again, and write their card anew")
    parser.add_argument("--method", default="standard", choices=METHODS)
    parser.add_argument("--data", metavar="FOLDER",
                        help="for the cifar networks: see datasets.cifar10_folder")
    parser.add_argument("--epochs", type=int, default=14)
    parser.add_argument("--batch-size", type=int, default=50)
    parser.add_argument("--lr", type=float, default=5e-3)
    parser.add_argument("--eps", type=lambda text: float(Fraction(text)), default=0.3,
                        help="such as 0.3 or 8/255")
    parser.add_argument("--steps", type=int, default=7)
    parser.add_argument("--bf16", nargs="?", const="yes", default="auto", choices=_BF16,
                        help="multiply in bfloat16; auto: where it pays")
    parser.add_argument("--checkpoint", type=Path, metavar="FILE",
                        help="keeps the state after each epoch; the same command goes on from it")
    parser.add_argument("--seed", type=int, default=0)
    arguments = sys.argv[1:] if arguments is None else arguments
    args = parser.parse_args(arguments)
    name = args.model or args.card
    if name.startswith("cifar") != bool(args.data):
        parser.error("--data FOLDER is for the cifar networks, which need it")
    if args.card:
        print(cards.again(name, args.data))
        return

    generator = runtime.generator(args.seed)
    with distributed.processes():
        model = models.build(name)
        initialise(model, generator)
        model.to(runtime.device())
        images = cards.images_of(name, args.data, "train").to(runtime.device())
        history = fit(model, images, method=args.method, epochs=args.epochs,
                      batch_size=args.batch_size, lr=args.lr, eps=args.eps, steps=args.steps,
                      augment=crop_and_flip if args.data else jitter, bf16=_BF16[args.bf16],
                      checkpoint=args.checkpoint, generator=generator, on_epoch=_report)
        writes = distributed.is_first()
    if not writes:
        return
    save(name, model)
    precision = "bfloat16" if in_bfloat16(_BF16[args.bf16], images.x) else "float32"
    made = cards.head(
        model, args, " ".join(["python -m course_lib.training", *arguments]), images=len(images),
        epochs_took=f"{history.seconds:.0f} s for {args.epochs} epochs in {precision}")
    print(cards.write(name, made, args.data))


def _report(history: History) -> None:
    if distributed.is_first():
        print(f"epoch {len(history.loss)}: loss {history.loss[-1]:.3f}, "
              f"accuracy {history.accuracy[-1]:.1%}, {history.seconds:.0f} s", flush=True)


if __name__ == "__main__":
    main()
