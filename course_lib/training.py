"""Training a network, on clean images or on the attacks made against it. Taught in lesson 07.

    python -m course_lib.training --model mnist_cnn --method standard

writes data/weights/mnist_cnn.safetensors, its sha256 and a card that says how good it is.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import platform
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from course_lib import datasets, evaluation, models, runtime
from course_lib.attacks import pgd
from course_lib.datasets import Images

METHODS = ("standard", "pgd")


@dataclass
class History:
    """What happened in each epoch: the mean training loss and the accuracy on what was trained on.

    With method "pgd" both are those of the attacked images.
    """

    loss: list[float] = field(default_factory=list)
    accuracy: list[float] = field(default_factory=list)
    seconds: float = 0.0


def fit(
    model: nn.Module, images: Images, *, method: str = "standard", epochs: int, lr: float = 5e-3,
    batch_size: int = 50, eps: float = 0.3, steps: int = 7, augmented: bool = True,
    generator: Generator, on_epoch: Callable[[History], None] | None = None,
) -> History:
    """Train a model in place: Adam, one learning-rate cycle, weights left in eval mode.

        standard:  min over theta of  mean L(theta, x, y)
        pgd:       min over theta of  mean  max over ||r||_inf <= eps of  L(theta, x + r, y)

    the inner maximum by PGD with `steps` steps from a random start; eps grows to its full size
    during the first fifth of the epochs, without which large eps can leave the network constant.
    on_epoch(history) is called after each epoch.

    Shape: images.x [n, channels, rows, columns]; they and the model share one device.
    Raises: ValueError for an unknown method, no epochs, or no images.
    Reference: Madry et al. 2018, equation 2.1 and section 4.
    Lesson: 07.
    """
    if method not in METHODS:
        raise ValueError(f"unknown method {method!r}: use one of {', '.join(METHODS)}")
    if epochs < 1 or not len(images):
        raise ValueError(f"nothing to train: epochs = {epochs}, {len(images)} images")
    batches = -(-len(images) // batch_size)
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=lr, total_steps=epochs * batches, pct_start=0.2)
    history = History()
    model.train()  # an attack sets eval mode for itself and gives this one back

    with runtime.timed() as clock:
        for epoch in runtime.progress(range(epochs), f"training ({method})"):
            order = torch.randperm(len(images), generator=generator).to(images.y.device)
            total_loss = correct = torch.zeros((), device=images.x.device)
            for i, chosen in enumerate(order.split(batch_size)):
                x, y = images.x[chosen], images.y[chosen]
                if augmented:
                    x = jitter(x, generator)
                if method == "pgd":
                    warm = min(1.0, 5 * (epoch + i / batches) / epochs)
                    x = pgd(model, x, y, eps=warm * eps, steps=steps, generator=generator)
                logits = model(x)
                loss = F.cross_entropy(logits, y)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
                total_loss = total_loss + loss.detach() * len(y)
                correct = correct + (logits.argmax(1) == y).sum()
            history.loss.append(float(total_loss) / len(images))
            history.accuracy.append(float(correct) / len(images))
            history.seconds = clock.seconds
            if on_epoch:
                on_epoch(history)
    model.eval()
    return history


def jitter(
    x: Tensor, generator: Generator, *, degrees: float = 12, shift: float = 0.08, scale: float = 0.1
) -> Tensor:
    """Turn, shift and scale each image a little at random, the whole batch in one sampling.

    degrees: largest turn either way; shift: largest move, as a part of the image's side;
    scale: largest relative change of size. Outside the image is black.

    Shape: [n, channels, rows, columns] -> the same, in [0, 1].

    >>> jitter(torch.ones(2, 1, 8, 8), torch.Generator().manual_seed(0)).shape
    torch.Size([2, 1, 8, 8])
    """
    turn, size, right, down = 2 * torch.rand(4, len(x), generator=generator) - 1
    angle, zoom = torch.deg2rad(degrees * turn), 1 + scale * size
    cos, sin = zoom * angle.cos(), zoom * angle.sin()
    # A side is 2 long in the coordinates of grid_sample.
    rows = (cos, -sin, 2 * shift * right), (sin, cos, 2 * shift * down)
    affine = torch.stack([torch.stack(row, 1) for row in rows], 1).to(x)
    grid = F.affine_grid(affine, list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, align_corners=False).clamp(0, 1)


def initialise(model: nn.Module, generator: Generator) -> None:
    """Draw fresh weights from a generator of one's own: PyTorch's default, U(-b, b).

        b = 1 / sqrt(inputs of a unit)

    The larger weights of He et al. 2015 leave a network constant under training with large eps.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            bound = module.weight[0].numel() ** -0.5
            nn.init.uniform_(module.weight, -bound, bound, generator=generator)
            nn.init.uniform_(module.bias, -bound, bound, generator=generator)


def save(name: str, model: nn.Module, folder: Path | None = None) -> Path:
    """Write <name>.safetensors and its line in SHA256SUMS, each in one move.

    A run that is killed leaves the old files or the new ones. Between the two moves `models.load`
    calls the file damaged, which it is not; running the command again mends that.
    """
    from safetensors.torch import save as serialise

    folder = folder or models.WEIGHTS
    content = serialise({k: v.cpu().contiguous() for k, v in model.state_dict().items()})
    file = folder / f"{name}.safetensors"
    sums = models.checksums(folder) | {file.name: hashlib.sha256(content).hexdigest()}
    folder.mkdir(parents=True, exist_ok=True)
    _replace(file, content)
    lines = "".join(f"{digest}  {entry}\n" for entry, digest in sorted(sums.items()))
    _replace(folder / "SHA256SUMS", lines.encode())
    return file


def _replace(path: Path, content: bytes) -> None:
    """Write a file completely or not at all."""
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as part:
        try:
            part.write(content)
            part.flush()
            os.fsync(part.fileno())
            os.chmod(part.name, 0o644)
            os.replace(part.name, path)
        except BaseException:
            os.unlink(part.name)
            raise


def card(model: nn.Module, history: History, args: argparse.Namespace, command: str) -> str:
    """The model card: how the weights were made and what they withstand."""
    test = datasets.mnist("test").to(runtime.device())
    parameters = sum(p.numel() for p in model.parameters())
    clean = evaluation.accuracy(model, test.x, test.y)
    rows = [f"| none | {clean:.1%} |"]
    trials = [(0.1, 40, 1), (0.3, 40, 1)] + [(args.eps, 100, 20)] * (args.method == "pgd")
    for eps, steps, restarts in trials:
        x_adv = pgd(model, test.x, test.y, eps=eps, steps=steps, restarts=restarts,
                    step_size=max(0.01, eps / steps), early_stop=True,
                    generator=runtime.generator(0))
        robust = evaluation.accuracy(model, x_adv, test.y)
        rows.append(f"| PGD-{steps}, {restarts} start(s), l_inf {eps} | {robust:.1%} |")
    where = runtime.device()
    machine = (torch.cuda.get_device_name(where) if where.type == "cuda"
               else f"{torch.get_num_threads()} CPU thread(s), {platform.machine()}")
    table = "\n".join(rows)
    return f"""# {args.model}

{type(model).__name__}, {parameters:,} parameters. {type(model).__doc__.splitlines()[0]}

- Data: 4,000 MNIST digits, `datasets.mnist("train")`; measured on the 1,000 of `"test"`
- Command: `{command}`
- Seed: {args.seed}
- Time: {history.seconds:.0f} s for {args.epochs} epochs on {machine}, PyTorch {torch.__version__}

| attack | accuracy |
| --- | --- |
{table}
"""


def main(arguments: list[str] | None = None) -> None:
    """The command behind each file in data/weights."""
    parser = argparse.ArgumentParser(prog="python -m course_lib.training", description=__doc__)
    parser.add_argument("--model", required=True, choices=[n for n in models.names()
                                                           if n.startswith("mnist")])
    parser.add_argument("--method", default="standard", choices=METHODS)
    parser.add_argument("--epochs", type=int, default=14)
    parser.add_argument("--batch-size", type=int, default=50)
    parser.add_argument("--lr", type=float, default=5e-3)
    parser.add_argument("--eps", type=float, default=0.3)
    parser.add_argument("--steps", type=int, default=7)
    parser.add_argument("--seed", type=int, default=0)
    arguments = sys.argv[1:] if arguments is None else arguments
    args = parser.parse_args(arguments)

    generator = runtime.generator(args.seed)
    model = models.build(args.model)
    initialise(model, generator)
    model.to(runtime.device())
    history = fit(model, datasets.mnist("train").to(runtime.device()), method=args.method,
                  epochs=args.epochs, batch_size=args.batch_size, lr=args.lr, eps=args.eps,
                  steps=args.steps, generator=generator, on_epoch=_report)
    file = save(args.model, model)
    text = card(model, history, args, " ".join(["python -m course_lib.training", *arguments]))
    _replace(file.with_suffix(".md"), text.encode())
    print(text)


def _report(history: History) -> None:
    print(f"epoch {len(history.loss)}: loss {history.loss[-1]:.3f}, "
          f"accuracy {history.accuracy[-1]:.1%}, {history.seconds:.0f} s", flush=True)


if __name__ == "__main__":
    main()
