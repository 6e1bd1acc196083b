"""Segmentation: a class for every pixel, how good it is, and how to train for it. For lesson 08.

    python -m course_lib.segmentation

trains the network that ships, writes data/weights/scene_segmenter.safetensors with its sha256, and
its card.
"""

from __future__ import annotations

import argparse
import platform
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from course_lib import cards, files, models, runtime, scenes
from course_lib.attacks import dag
from course_lib.gradients import forward
from course_lib.training import initialise, save

NAME = "scene_segmenter"
TESTED, ATTACKED = 100, 20  # scenes of the card
LEVELS = (4, 16, 24)  # grey levels of its attacks


def label_map(model: nn.Module, x: Tensor) -> Tensor:
    """The class of each pixel: the largest of its logits.

    Shape: x [n, 3, rows, columns] -> [n, rows, columns] int64.
    Lesson: 08.
    """
    return forward(model, x).argmax(1)


def mean_iou(predicted: Tensor, mask: Tensor, classes: int = len(scenes.CLASSES)) -> float:
    """Mean intersection over union: how well two label maps agree, class by class.

        IoU_k = |predicted is k and mask is k| / |predicted is k or mask is k|

    counted over all pixels of all scenes, then the mean over the classes. A class that neither
    map holds does not count.

    Shape: predicted, mask [n, rows, columns] int64, labels below `classes`.
    Raises: ValueError for two shapes, or labels that are no class.
    Lesson: 08.

    >>> mean_iou(torch.tensor([[[0, 0, 1, 1]]]), torch.tensor([[[0, 1, 1, 1]]]), classes=3)
    0.5833333333333333
    """
    if predicted.shape != mask.shape:
        raise ValueError(f"label maps of shapes {tuple(predicted.shape)} and {tuple(mask.shape)}: "
                         "give two of the same shape, not logits")
    for labels in (predicted, mask):
        if not bool(((labels >= 0) & (labels < classes)).all()):
            raise ValueError(f"labels outside 0 … {classes - 1}")
    scores = []
    for k in range(classes):
        both, either = (predicted == k) & (mask == k), (predicted == k) | (mask == k)
        if either.any():
            scores.append(int(both.sum()) / int(either.sum()))
    return sum(scores) / len(scores)


Loss = Callable[[nn.Module, scenes.Scenes], Tensor]


def pixel_loss(model: nn.Module, batch: scenes.Scenes) -> Tensor:
    """The mean over all pixels of L(theta, x, y_pixel)."""
    return F.cross_entropy(model(batch.x), batch.mask)


def fit(
    model: nn.Module, loss: Loss = pixel_loss, *, rounds: int, scenes_per_round: int = 2000,
    batch_size: int = 32, lr: float = 5e-3, on_round: Callable[[int, float], None] | None = None,
) -> None:
    """Train a network in place on fresh scenes in each round; it is left in eval mode.

    Adam with one learning-rate cycle minimises loss(model, batch of scenes).
    on_round(number, mean loss) is called after each round.
    Lesson: 08.
    """
    batches = -(-scenes_per_round // batch_size)
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=lr, total_steps=rounds * batches, pct_start=0.2)
    where = next(model.parameters()).device
    model.train()
    for number in runtime.progress(range(rounds), "training"):
        fresh = scenes.compose(scenes_per_round, "train", seed=number).to(where)
        total = torch.zeros((), device=where)
        for start in range(0, len(fresh), batch_size):
            value = loss(model, fresh[start:start + batch_size])
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
            schedule.step()
            total += value.detach()
        if on_round:
            on_round(number, float(total) / batches)
    model.eval()


def main(arguments: list[str] | None = None) -> None:
    """The command behind data/weights/scene_segmenter.safetensors and its card."""
    ship(NAME, "segmentation", pixel_loss, _measured, 16, arguments)


def ship(
    name: str, module: str, loss: Loss, measured: Callable[[nn.Module], str], rounds: int,
    arguments: list[str] | None,
) -> None:
    """Train a network for scenes, write its weights and its card; with --card, only measure it."""
    parser = argparse.ArgumentParser(prog=f"python -m course_lib.{module}")
    parser.add_argument("--rounds", type=int, default=rounds, help="of 2,000 fresh scenes each")
    parser.add_argument("--card", action="store_true",
                        help="measure the weights that ship again, and write their card anew")
    args = parser.parse_args(arguments)
    card = models.WEIGHTS / f"{name}.md"
    if args.card:
        made = card.read_text().split("- Measured:")[0]
    else:
        model = models.build(name)
        initialise(model, runtime.generator(0))
        model.to(runtime.device())
        with runtime.timed() as clock:
            fit(model, loss, rounds=args.rounds, on_round=_report)
        save(name, model)
        made = _made(name, module, model, args.rounds, clock.seconds)
    command = f"`python -m course_lib.{module} --card`"
    text = (made + f"- Measured: {command}, PyTorch {torch.__version__}\n\n"
            + measured(models.load(name)))
    files.write(card, text.encode())
    print(text)


def _report(number: int, loss: float) -> None:
    print(f"round {number + 1}: loss {loss:.4f}", flush=True)


def _made(name: str, module: str, model: nn.Module, rounds: int, seconds: float) -> str:
    where = f"{torch.get_num_threads()} CPU thread(s), {platform.machine()}"
    if runtime.device().type == "cuda":
        where = torch.cuda.get_device_name()
    return f"""# {name}

{type(model).__name__}, {sum(p.numel() for p in model.parameters()):,} parameters. \
{cards.summary(model)}

- Data: `scenes.compose`, {rounds} times 2,000 fresh scenes of the split "train"
- Command: `python -m course_lib.{module} --rounds {rounds}`
- Seed: 0
- Time: {seconds:.0f} s on {where}, PyTorch {torch.__version__}
"""


def _measured(model: nn.Module) -> str:
    """The table of the card: mean IoU on scenes of the split "test", before and after DAG."""
    test = scenes.compose(TESTED, "test").to(runtime.device())
    rows = [f"| 0 | none | {TESTED} | {mean_iou(label_map(model, test.x), test.mask):.3f} |"]
    few = test[:ATTACKED]
    for level in LEVELS:
        x_adv = dag(model, few.x, few.mask, eps=level / 255)
        found = mean_iou(label_map(model, x_adv), few.mask)
        rows.append(f"| {level}/255 | DAG, 40 steps | {len(few)} | {found:.3f} |")
    return """| eps in l_inf | attack | scenes | mean IoU |
| --- | --- | --- | --- |
""" + "".join(f"{row}\n" for row in rows)


if __name__ == "__main__":
    main()
