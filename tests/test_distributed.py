"""Several processes, started by torchrun, train as one does."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from course_lib import distributed, training

# 17 images in batches of 8: the last batch holds one, and leaves the second process without any.
# What rounding could decide is taken out of the way: in double precision no sign of a gradient
# hangs on the order of a sum, and where no two pixels are equal, max-pooling meets no tie.
SCRIPT = """
import json, sys
from dataclasses import replace
from pathlib import Path
import torch
from course_lib import datasets, distributed, models, training
from course_lib.runtime import generator

def augment(x, generator):
    noise = torch.rand(x.shape, generator=generator, dtype=x.dtype)
    return 0.3 + 0.2 * training.jitter(x, generator) + 0.2 * noise

folder, images = Path(sys.argv[1]), datasets.mnist("train")[:17]
images = replace(images, x=images.x.double())
with distributed.processes():
    for method in training.METHODS:
        model = models.MnistCNN(channels=4, hidden=16)
        training.initialise(model, generator(0))
        history = training.fit(
            model.double(), images, method=method, epochs=2, steps=2, batch_size=8,
            augment=augment, checkpoint=folder / f"{method}.checkpoint",
            generator=generator(1))
        if distributed.is_first():
            training.save(method, model, folder)
            print(json.dumps([distributed.share().step, history.loss, history.accuracy]))
"""


def run(folder, *launcher):
    """Train with every method: how many processes there were, and the history of each training."""
    folder.mkdir()
    script = folder / "train.py"
    script.write_text(SCRIPT)
    done = subprocess.run([sys.executable, *launcher, str(script), str(folder)],
                          capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.slow
def test_two_processes_end_with_the_weights_of_one(tmp_path):
    alone = run(tmp_path / "one")
    together = run(tmp_path / "two", "-m", "torch.distributed.run", "--standalone",
                   "--nproc-per-node=2")
    for method, one, two in zip(training.METHODS, alone, together, strict=True):
        assert (one[0], two[0]) == (None, 2)
        assert two[1:] == [pytest.approx(values, rel=1e-6) for values in one[1:]], method
        files = [load_file(tmp_path / f / f"{method}.safetensors") for f in ("one", "two")]
        torch.testing.assert_close(*files, rtol=1e-5, atol=1e-6)


def test_a_single_process_adds_nothing():
    numbers = torch.tensor([1.0, 2.0])
    distributed.add_up([numbers])
    distributed.average([numbers])
    assert numbers.tolist() == [1, 2] and distributed.is_first()
    with distributed.processes():
        assert [1, 2, 3][distributed.share()] == [1, 2, 3]
