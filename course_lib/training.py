"""Training a network, on clean images or on the attacks made against it. Taught in lesson 07.

    python -m course_lib.training --model mnist_cnn --method standard

writes data/weights/mnist_cnn.safetensors, its sha256 and a card that says how good it is.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import io
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from course_lib import cards, distributed, files, models, runtime
from course_lib.attacks import fgsm
from course_lib.attacks.pgd import SHARE, gradient_step
from course_lib.datasets import Images
from course_lib.gradients import frozen, input_gradient
from course_lib.iterate import iterate
from course_lib.norms import project, project_box, steepest_step, uniform_ball

# How the command line says it.
_BF16: dict[str, bool | str] = {"auto": "auto", "yes": True, "no": False}
METHODS = ("standard", "pgd", "fgsm", "fast", "n-fgsm", "free", "trades")


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
    batch_size: int = 50, eps: float = 0.3, steps: int = 7, norm: str = "linf", beta: float = 6.0,
    augment: Callable[[Tensor, Generator], Tensor] | None = None, bf16: bool | str = "auto",
    checkpoint: Path | None = None, generator: Generator | None = None,
    on_epoch: Callable[[History], None] | None = None,
) -> History:
    """Train a model in place: Adam, one learning-rate cycle, weights left in eval mode.

        standard:  min over theta of  mean L(theta, x, y)
        others:    min over theta of  mean  max over ||r|| <= eps of  L(theta, x + r, y)

    the inner maximum by one of

        pgd:     PGD with `steps` steps from a random start
        fgsm:    one step of size eps from x; often it fools itself: robust to FGSM, and to no other
        fast:    one step of size 1.25 eps from a random point of the ball, then back into it
        n-fgsm:  one step of size eps from x + noise, noise uniform in the ball of 2 eps; never
                 brought back, so the ball is left
        free:    each batch `steps` times in a row; the one backward pass of a step moves weights
                 and perturbation, which the next batch inherits. The same number of `epochs` is
                 `steps` times the passes of "standard"; Shafahi et al. divide the epochs by m
        trades:  `steps` steps up KL(p(x) || p(x + r)); the loss is L(theta, x, y) + beta * KL

    The attacks see the network in eval mode, the step on the weights in train mode (free: one pass
    serves both, in train mode). So an image's attack does not depend on its batch, and the
    attack's passes leave the statistics of batch norm alone. Robust accuracy hardly tells the
    modes apart: three small networks with batch norm, trained on digits with pgd at eps 0.2,
    withstand PGD-40 on 82.4, 81.6 and 84.0 % of 500 test digits with attacks in eval mode, and on
    81.0, 81.0 and 83.4 % with attacks in train mode.

    eps grows to its full size during the first fifth of the epochs, without which large eps can
    leave the network constant. History counts what was trained on, with trades the attacked images.

    augment: what happens to each batch first, `jitter` or `crop_and_flip`.
    bf16: multiply in bfloat16; weights, losses and what is reported later stay float32. "auto" does
    so where it pays, see `in_bfloat16`.
    checkpoint: a file that keeps the state after each epoch; a run that was killed, called again
    with the same arguments, first weights and seed, goes on from there to the weights it would
    have had.
    generator: of the order of the images, the augmentation and the attacks; by default a fresh one
    with seed 0.
    on_epoch(history) is called after each epoch.

    Under torchrun, see `course_lib.distributed`, the processes share each batch: all draw the
    random numbers of the whole batch, so the weights are those of a single process, to rounding.
    With batch norm they are not: each process normalises its share by the share's own statistics,
    and the running ones are averaged after each epoch. Nor are they with trades, whose first step
    has the sign of a gradient near zero, which rounding turns round: in a small training the
    weights differed by up to 0.016, the losses by a part in ten thousand.

    Shape: images.x [n, channels, rows, columns], float in [0, 1] or bytes, which are divided by
    255 batch by batch; they and the model share one device.
    Raises: ValueError for an unknown method or bf16, no epochs, no images, or the checkpoint of a
    training with other arguments.
    Reference: Madry et al. 2018, equation 2.1 and section 4 (pgd); Goodfellow et al. 2015 (fgsm);
    Wong et al. 2020, algorithm 3 (fast); de Jorge et al. 2022 (n-fgsm); Shafahi et al.
    2019, algorithm 1 (free); Zhang et al. 2019 (trades).
    Lesson: 07.
    """
    if method not in METHODS:
        raise ValueError(f"unknown method {method!r}: use one of {', '.join(METHODS)}")
    if epochs < 1 or not len(images):
        raise ValueError(f"nothing to train: epochs = {epochs}, {len(images)} images")
    generator = generator or runtime.generator(0)
    bf16 = in_bfloat16(bf16, images.x)
    batches = -(-len(images) // batch_size)
    replays = steps if method == "free" else 1
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    # OneCycleLR divides by zero where a fifth of the steps is a single one.
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=lr, total_steps=max(6, epochs * batches * replays), pct_start=0.2)
    history = History()
    run = _Run(model, optimizer, schedule, generator, history, {
        "method": method, "epochs": epochs, "lr": lr, "batch_size": batch_size, "eps": eps,
        "steps": steps, "norm": norm, "beta": beta, "bf16": bf16, "images": len(images),
        "augment": _name(augment), "generator": _digest(generator.get_state()),
        "weights": _digest(*model.state_dict().values())})
    if checkpoint:
        run.resume(checkpoint)
    earlier = history.seconds
    share = distributed.share()
    model.train()  # an attack sets eval mode for itself and gives this one back

    with runtime.timed() as clock:
        for epoch in runtime.progress(range(len(history.loss), epochs), f"training ({method})"):
            order = torch.randperm(len(images), generator=generator).to(images.y.device)
            # The perturbation of "free"; afresh each epoch, so that a checkpoint need not hold it.
            inherited = images.x.new_zeros(batch_size, *images.x.shape[1:],
                                           dtype=torch.result_type(images.x, 1.0))[share]
            total_loss, correct = torch.zeros(2, device=images.x.device)
            for i, chosen in enumerate(order.split(batch_size)):
                x, y = images.x[chosen], images.y[chosen]
                if augment:
                    x = augment(x, generator)
                if x.dtype == torch.uint8:
                    x = x.float() / 255
                radius = eps * min(1.0, 5 * (epoch + i / batches) / epochs)
                start = _start(x, method, eps=radius, norm=norm, generator=generator)
                x, start, y = x[share], start[share], y[share]
                for _ in range(replays):
                    with torch.autocast(x.device.type, torch.bfloat16, enabled=bf16):
                        if method == "free":
                            x_adv = (x + inherited[:len(x)]).clamp(0, 1).requires_grad_()
                        else:
                            x_adv = _inner_maximum(
                                model, x, start, y, method, eps=radius, steps=steps, norm=norm)
                        logits = model(x_adv).to(x.dtype)
                        clean = model(x).to(x.dtype) if method == "trades" else logits
                    loss = F.cross_entropy(clean, y, reduction="sum") / len(chosen)
                    if method == "trades":
                        loss = loss + beta * _kl(clean, logits).sum() / len(chosen)
                    optimizer.zero_grad()
                    loss.backward()
                    distributed.add_up([p.grad for p in model.parameters() if p.grad is not None])
                    optimizer.step()
                    schedule.step()
                    if method == "free":
                        # From the image, not from the perturbation: an l1 step knows the box.
                        assert x_adv.grad is not None
                        place = x_adv.detach()
                        step = steepest_step(place, x_adv.grad, radius, norm) - place
                        inherited[:len(x)] = project(inherited[:len(x)] + step, radius, norm)
                    total_loss += loss.detach() * len(chosen) / replays
                    correct += (logits.argmax(1) == y).sum() / replays
            distributed.add_up([total_loss, correct])
            distributed.average([b for b in model.buffers() if b.is_floating_point()])
            history.loss.append(float(total_loss) / len(images))
            history.accuracy.append(float(correct) / len(images))
            history.seconds = earlier + clock.seconds
            if checkpoint and distributed.is_first():
                run.save(checkpoint)
            if on_epoch:
                on_epoch(history)
    model.eval()
    return history


# Measured on two cores with AVX512_BF16, see benchmarks/bf16.py: in bfloat16 an epoch of CIFAR-10
# takes 0.5 to 0.6 of its time in float32, one of digits 0.8. What a lesson trains on digits takes
# seconds; that float32 gives nearly the same numbers on every machine is worth more than a fifth.
_LARGE = 2048  # entries of an image; a digit has 784, an image of CIFAR-10 3,072


def in_bfloat16(bf16: bool | str, x: Tensor) -> bool:
    """What `fit` makes of its option: "auto" is True for images larger than digits on hardware
    that multiplies in bfloat16. Emulated bfloat16 takes seven to twelve times as long as float32.

    >>> in_bfloat16("auto", torch.zeros(1, 1, 28, 28))
    False
    """
    if bf16 not in (True, False, "auto"):
        raise ValueError(f"unknown bf16={bf16!r}: use True, False or 'auto'")
    if bf16 != "auto":
        return bool(bf16)
    return x[0].numel() >= _LARGE and runtime.multiplies_bfloat16(x.device)


def _start(x: Tensor, method: str, *, eps: float, norm: str, generator: Generator) -> Tensor:
    """Where the inner maximisation of each image begins: at x, or at a random point around it."""
    if method in ("standard", "fgsm", "free"):
        return x
    reach = 2 * eps if method == "n-fgsm" else eps
    if method == "trades":  # the gradient of KL(p(x) || p(x')) is zero at x itself: a tiny move
        noise = 0.001 * torch.randn(x.shape, generator=generator)
    else:
        noise = uniform_ball(x.shape, reach, norm, generator)
    return project_box(x + noise.to(x), x, reach, norm)


def _inner_maximum(
    model: nn.Module, x: Tensor, start: Tensor, y: Tensor, method: str, *, eps: float, steps: int,
    norm: str,
) -> Tensor:
    """The images to train on instead of x, each within its ball (n-fgsm: near it)."""
    if method == "standard" or not len(x):  # the last batch may leave a process without a share
        return x
    if method == "fgsm":
        return fgsm(model, x, y, eps=eps, norm=norm)
    if method == "pgd":
        return iterate(model, x, y, update=gradient_step(eps, norm, SHARE),
                      sizes=[2.5 * eps / steps] * steps, start=start).x_adv
    if method == "trades":
        return _farthest(model, x, start, eps=eps, steps=steps, norm=norm)
    gradient = input_gradient(model, start, y)
    if method == "n-fgsm":
        return steepest_step(start, gradient, eps, norm).clamp(0, 1)
    return project_box(steepest_step(start, gradient, 1.25 * eps, norm), x, eps, norm)


def _farthest(
    model: nn.Module, x: Tensor, start: Tensor, *, eps: float, steps: int, norm: str
) -> Tensor:
    """PGD on KL(p(x) || p(x'))."""
    x_adv = start
    with frozen(model):
        with torch.no_grad():
            clean = model(x).to(x.dtype)
        for _ in range(steps):
            x_adv.requires_grad_()
            (gradient,) = torch.autograd.grad(_kl(clean, model(x_adv).to(x.dtype)).sum(), x_adv)
            step = steepest_step(x_adv.detach(), gradient, 2.5 * eps / steps, norm)
            x_adv = project_box(step, x, eps, norm)
    return x_adv


def _kl(clean: Tensor, logits: Tensor) -> Tensor:
    """KL(p || q) of the predictions behind two sets of logits, for each image. [n]"""
    return F.kl_div(logits.log_softmax(1), clean.log_softmax(1), reduction="none",
                    log_target=True).sum(1)


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


def crop_and_flip(x: Tensor, generator: Generator, *, reach: int = 2) -> Tensor:
    """Move each image by up to `reach` pixels, black behind it, and mirror every second one.

    Shape: [n, channels, rows, columns], floats or bytes -> the same, stored channels last.

    >>> crop_and_flip(torch.ones(2, 3, 8, 8), torch.Generator().manual_seed(0)).shape
    torch.Size([2, 3, 8, 8])
    """
    n, _, rows, columns = x.shape
    down, right = torch.randint(2 * reach + 1, (2, n, 1), generator=generator)
    mirrored = torch.rand(n, 1, generator=generator) < 0.5
    row = down + torch.arange(rows)
    column = right + torch.arange(columns)
    column = torch.where(mirrored, column.flip(1), column)
    image = torch.arange(n).view(n, 1, 1)
    padded = F.pad(x, (reach,) * 4)
    picked = padded.permute(0, 2, 3, 1)[image, row[:, :, None], column[:, None, :]]
    return picked.permute(0, 3, 1, 2)


@dataclass
class _Run:
    """Everything that decides how a training goes on, to be kept in a file between epochs."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler
    generator: Generator
    history: History
    arguments: dict[str, object]

    def save(self, path: Path) -> None:
        """Write the state behind its sha256; the state before it stays as <path>.before."""
        content = io.BytesIO()
        torch.save({"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict(),
                    "schedule": self.schedule.state_dict(), "history": vars(self.history),
                    "generator": self.generator.get_state(), "arguments": self.arguments}, content)
        state = content.getvalue()
        if path.exists():
            path.replace(_before(path))
        files.write(path, hashlib.sha256(state).digest() + state)

    def resume(self, path: Path) -> None:
        """Take up the newest state that is whole; without one, stay at the beginning."""
        for file in (path, _before(path)):
            content = file.read_bytes() if file.exists() else b""
            if hashlib.sha256(content[32:]).digest() == content[:32]:
                break
        else:
            return
        # On the CPU first: the GPU that wrote it may be absent. Each part then moves its own.
        state = torch.load(io.BytesIO(content[32:]), map_location="cpu", weights_only=True)
        theirs = state["arguments"]
        other = {k: theirs.get(k) for k, v in self.arguments.items() if theirs.get(k) != v}
        if other:
            raise ValueError(f"{file} belongs to another training, with {other}: "
                             "delete it or name another file")
        for name in ("model", "optimizer", "schedule"):
            getattr(self, name).load_state_dict(state[name])
        self.generator.set_state(state["generator"])
        vars(self.history).update(state["history"])


def _name(function: Callable[..., Tensor] | None) -> str:
    """What an augmentation is called, the same in every process."""
    if isinstance(function, functools.partial):
        return f"{_name(function.func)} {function.args} {sorted(function.keywords.items())}"
    return getattr(function, "__qualname__", type(function).__name__)


def _digest(*tensors: Tensor) -> str:
    """The sha256 of all numbers of some tensors."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _before(path: Path) -> Path:
    return path.with_name(f"{path.name}.before")


def initialise(model: nn.Module, generator: Generator) -> None:
    """Draw fresh weights from a generator of one's own: PyTorch's default, U(-b, b).

        b = 1 / sqrt(inputs of a unit)

    Embeddings are drawn from N(0, 1).
    The larger weights of He et al. 2015 leave a network constant under training with large eps.
    """
    for module in model.modules():
        if isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, generator=generator)
            if module.padding_idx is not None:
                nn.init.zeros_(module.weight.data[module.padding_idx])
        if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Linear):
            bound = module.weight[0].numel() ** -0.5
            nn.init.uniform_(module.weight, -bound, bound, generator=generator)
            if module.bias is not None:
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
    files.write(file, content)
    lines = "".join(f"{digest}  {entry}\n" for entry, digest in sorted(sums.items()))
    files.write(folder / "SHA256SUMS", lines.encode())
    return file


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
