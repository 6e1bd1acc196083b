"""A patch that makes EfficientNet-Lite0 see a toaster wherever it lies; for lesson 08.

    python benchmarks/patch.py     writes data/results/patch_toaster.png and data/results/patch.json

Trained on the first 12 photographs of `datasets.imagenet()`, measured on them and on the other 12,
which show other classes: how often a name changes in random places, and how often it is "toaster",
beside a grey patch of the same size. Seed 0. About six minutes on one quiet core.
"""

from __future__ import annotations

import io

import torch
from PIL import Image

from course_lib import datasets, evaluation, files, models, plots, runtime
from course_lib.attacks.patch import adversarial_patch, paste, random_places

TARGET, TRAINED, STEPS, BATCH, PLACES = 859, 12, 400, 4, 16


def main() -> None:
    photographs = datasets.imagenet()
    network = models.load("efficientnet_lite0", "cpu")
    log = []

    def watch(step: int, loss: float, patch: torch.Tensor) -> None:
        log.append(loss)
        if step % 20 == 19:
            print(f"step {step + 1}: mean loss {sum(log[-20:]) / 20:.2f}", flush=True)

    patch = adversarial_patch(network, photographs.x[:TRAINED], TARGET, steps=STEPS,
                              batch_size=BATCH, callback=watch)
    picture = io.BytesIO()
    Image.fromarray(plots.array(patch)).save(picture, format="png")
    files.write(runtime.RESULTS / "patch_toaster.png", picture.getvalue())
    printed = torch.from_numpy(plots.array(patch)).permute(2, 0, 1) / 255
    found = {}
    splits = {"trained on": photographs[:TRAINED], "held out": photographs[TRAINED:]}
    for split, images in splits.items():
        said = evaluation.predict(network, images.x).labels.repeat(PLACES)
        places = random_places(len(said), generator=runtime.generator(1))
        for name, sticker in (("patch", printed), ("grey", torch.full_like(printed, 0.5))):
            x = paste(images.x.repeat(PLACES, 1, 1, 1), sticker, places)
            named = evaluation.predict(network, x).labels
            found[f"{name}, {split}"] = {
                "another name in %": 100 * (named != said).float().mean().item(),
                "toaster in %": 100 * (named == TARGET).float().mean().item()}
    print(found)
    runtime.record("patch", "python benchmarks/patch.py", network="efficientnet_lite0",
                   target=photographs.classes[TARGET], steps=STEPS, batch=BATCH,
                   placements=PLACES * TRAINED, loss=log[::10], **found)


if __name__ == "__main__":
    main()
