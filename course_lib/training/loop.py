"""The loop over epochs and batches, whatever it is that the network is trained on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from course_lib import distributed, runtime
from course_lib.datasets import Images
from course_lib.norms import project, steepest_step
from course_lib.training.checkpoint import History, Run, digest_of, name_of
from course_lib.training.inner import inner_maximum, kl, start_of

METHODS = ("standard", "pgd", "fgsm", "fast", "n-fgsm", "free", "trades")


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
    run = Run(model, optimizer, schedule, generator, history, {
        "method": method, "epochs": epochs, "lr": lr, "batch_size": batch_size, "eps": eps,
        "steps": steps, "norm": norm, "beta": beta, "bf16": bf16, "images": len(images),
        "augment": name_of(augment), "generator": digest_of(generator.get_state()),
        "weights": digest_of(*model.state_dict().values())})
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
                start = start_of(x, method, generator, eps=radius, norm=norm)
                x, start, y = x[share], start[share], y[share]
                for _ in range(replays):
                    with torch.autocast(x.device.type, torch.bfloat16, enabled=bf16):
                        if method == "free":
                            x_adv = (x + inherited[:len(x)]).clamp(0, 1).requires_grad_()
                        else:
                            x_adv = inner_maximum(
                                model, x, start, y, method, eps=radius, steps=steps, norm=norm)
                        logits = model(x_adv).to(x.dtype)
                        clean = model(x).to(x.dtype) if method == "trades" else logits
                    loss = F.cross_entropy(clean, y, reduction="sum") / len(chosen)
                    if method == "trades":
                        loss = loss + beta * kl(clean, logits).sum() / len(chosen)
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
