"""The images of the course: what they are, where they come from, and what a bad network does."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import pickle
import tarfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import torch
from PIL import Image

from course_lib import datasets, files, plots

SETS = {
    "mnist train": (lambda: datasets.mnist("train"), (4000, 1, 28, 28)),
    "mnist test": (lambda: datasets.mnist("test"), (1000, 1, 28, 28)),
    "cifar10": (datasets.cifar10, (20, 3, 32, 32)),
    "imagenet": (datasets.imagenet, (24, 3, 224, 224)),
    "faces": (datasets.faces, (200, 1, 25, 25)),
}


@pytest.mark.parametrize("name", SETS)
def test_images_are_float_tensors_in_the_box_with_labels_that_have_names(name):
    load, shape = SETS[name]
    images, again = load(), load()
    assert tuple(images.x.shape) == shape
    assert images.x.dtype == torch.float32 and images.x.is_contiguous()
    assert 0 <= float(images.x.min()) < 0.1 and 0.9 < float(images.x.max()) <= 1
    assert images.y.dtype == torch.int64 and images.y.shape == (len(images),)
    assert int(images.y.min()) >= 0 and int(images.y.max()) < len(images.classes)
    assert torch.equal(images.x, again.x) and torch.equal(images.y, again.y)


def test_a_caller_who_writes_into_the_images_spoils_them_for_nobody_else():
    first = datasets.mnist("test")
    first.x.zero_()
    first.classes.clear()
    assert float(datasets.mnist("test").x.max()) == 1
    assert len(datasets.mnist("test").classes) == 10


def test_mnist_split_is_balanced_and_has_no_overlap():
    train, test = datasets.mnist("train"), datasets.mnist("test")
    assert torch.equal(train.y.bincount(), torch.full((10,), 400))
    assert torch.equal(test.y.bincount(), torch.full((10,), 100))
    assert test.y[:10].tolist() == list(range(10))
    digits = [{image.numpy().tobytes() for image in part.x} for part in (train, test)]
    assert len(digits[0]) == 4000 and len(digits[1]) == 1000 and not digits[0] & digits[1]


def test_mnist_is_the_same_on_every_machine():
    pixels = (datasets.mnist("test").x * 255).round().byte().numpy().tobytes()
    digest = hashlib.sha256(pixels).hexdigest()
    assert digest == "3da147a96e049833ac3cd8e93a6dff81f840ba21078c79dd018973359482d29b"


def test_class_names():
    names = datasets.imagenet_classes()
    assert len(names) == len(set(names)) == 1000
    assert (names[0], names[281], names[967], names[999]) == ("tench", "tabby", "espresso",
                                                             "toilet tissue")
    assert datasets.mnist().classes == [str(digit) for digit in range(10)]
    assert datasets.cifar10().names[:4] == ["cat", "ship", "ship", "airplane"]
    assert datasets.faces().names[99:101] == ["face", "no face"]


def test_class_names_are_those_of_torchvision():
    weights = pytest.importorskip("torchvision.models").EfficientNet_B0_Weights.DEFAULT
    assert datasets.imagenet_classes() == weights.meta["categories"]


def test_selecting_images():
    images = datasets.mnist("test")
    assert len(images[:20]) == 20 and images[:20].classes == images.classes
    assert images[[3, 5]].y.tolist() == [3, 5]
    assert images[images.y == 7].names == ["7"] * 100
    assert images[:2].to("cpu").x.device.type == "cpu"
    with pytest.raises(TypeError, match=r"images\[4:5\]"):
        images[4]


def test_unknown_splits():
    with pytest.raises(ValueError, match="'train' or 'test'"):
        datasets.mnist("validation")
    with pytest.raises(ValueError, match="full=True"):
        datasets.cifar10("train")


# A folder of the user's own


def test_pictures_of_ones_own(tmp_path):
    for folder, colour in (("281", "red"), ("espresso", "blue")):
        (tmp_path / folder).mkdir()
        Image.new("RGB", (300, 260), colour).save(tmp_path / folder / "picture.png")
    images = datasets.imagenet(tmp_path)
    assert images.names == ["tabby", "espresso"]
    assert images.x.shape == (2, 3, 224, 224)
    assert images.x[0, :, 5, 5].tolist() == [1, 0, 0]
    assert len(datasets.imagenet(tmp_path, limit=1)) == 1


def test_the_thousand_folders_of_imagenet_number_themselves(tmp_path):
    folders = [f"n{i:08d}" for i in range(5, 3005, 3)]
    assert datasets._class_numbers(folders)[folders[7]] == 7


def test_a_folder_that_is_not_understood(tmp_path):
    with pytest.raises(FileNotFoundError, match="no pictures"):
        datasets.imagenet(tmp_path)
    (tmp_path / "unicorn").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "unicorn" / "one.png")
    with pytest.raises(ValueError, match="'unicorn' is no ImageNet class"):
        datasets.imagenet(tmp_path)


# Downloads, against a server on this machine


class Server:
    """Serves `files`; of one in `cut` it announces everything and sends a part."""

    def __init__(self):
        self.files: dict[str, bytes] = {}
        self.cut: set[str] = set()
        self.requests: list[str] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                name = self.path.strip("/")
                outer.requests.append(name)
                if name not in outer.files:
                    return self.send_error(404)
                content = outer.files[name]
                self.send_response(200)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content[: len(content) // 2] if name in outer.cut else content)

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}/"

    def add(self, name: str, content: bytes) -> None:
        self.files[name] = content


@pytest.fixture
def server():
    server = Server()
    yield server
    server.server.shutdown()
    server.server.server_close()


@pytest.fixture
def world(server, monkeypatch, tmp_path):
    """A small MNIST and CIFAR-10 on the server, and an empty cache."""
    pixels = np.arange(3 * 28 * 28, dtype=np.uint32).astype(np.uint8)
    server.add("t10k-images-idx3-ubyte.gz", gzip.compress(bytes(16) + pixels.tobytes()))
    server.add("t10k-labels-idx1-ubyte.gz", gzip.compress(bytes(8) + bytes([7, 2, 1])))
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:gz") as tar:
        for i, name in enumerate(["test_batch", *(f"data_batch_{k}" for k in range(1, 6))]):
            record = bytes([i]) + bytes([255]) * 1024 + bytes([0]) * 1024 + bytes([51]) * 1024
            info = tarfile.TarInfo(f"cifar-10-batches-bin/{name}.bin")
            info.size = len(record)
            tar.addfile(info, io.BytesIO(record))
    server.add("cifar-10-binary.tar.gz", archive.getvalue())
    hashes = {name: hashlib.sha256(content).hexdigest() for name, content in server.files.items()}
    monkeypatch.setattr(datasets, "_SHA256", hashes)
    monkeypatch.setattr(datasets, "_MNIST_URL", server.url)
    monkeypatch.setattr(datasets, "_CIFAR10_URL", server.url + "cifar-10-binary.tar.gz")
    monkeypatch.setenv("COURSE_CACHE", str(tmp_path / "cache"))
    return server


def test_the_complete_mnist_is_fetched_once(world):
    for _ in range(2):
        images = datasets.mnist("test", full=True)
        assert images.x.shape == (3, 1, 28, 28) and images.y.tolist() == [7, 2, 1]
        assert float(images.x[0, 0, 0, 5]) == pytest.approx(5 / 255)
    assert len(world.requests) == 2


def test_the_complete_cifar10_keeps_its_colours_and_labels(world):
    test = datasets.cifar10("test", full=True)
    assert test.y.tolist() == [0] and test.x[0, :, 9, 9].tolist() == pytest.approx([1, 0, 0.2])
    assert datasets.cifar10("train", full=True).y.tolist() == [1, 2, 3, 4, 5]


def test_a_download_that_breaks_off_leaves_nothing_and_falls_back(world, capsys, tmp_path):
    world.cut = set(world.files)
    assert len(datasets.mnist("test", full=True)) == 1000
    assert len(datasets.cifar10(full=True)) == 20
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 and "MNIST could not be downloaded" in lines[0]
    assert [p for p in (tmp_path / "cache").rglob("*") if p.is_file()] == []
    world.cut = set()
    assert len(datasets.mnist("test", full=True)) == 3  # the next attempt starts afresh


def test_no_connection_falls_back(monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("COURSE_CACHE", str(tmp_path))
    monkeypatch.setattr(datasets, "_MNIST_URL", "http://127.0.0.1:1/")
    assert len(datasets.mnist("train", full=True)) == 4000
    assert "4,000 images that ship" in capsys.readouterr().out


def test_a_training_set_that_nothing_can_stand_in_for_is_an_error(world):
    world.cut = set(world.files)
    with pytest.raises(OSError, match=r"cifar-10-binary\.tar\.gz"):
        datasets.cifar10("train", full=True)


def test_a_wrong_file_is_refused_and_a_damaged_one_fetched_again(server, tmp_path):
    server.add("data", b"the right content" * 1000)
    right = hashlib.sha256(server.files["data"]).hexdigest()
    target = tmp_path / "folder" / "data"
    with pytest.raises(OSError, match="broken or incomplete"):
        files.download(server.url + "data", target, "0" * 64)
    assert not list(target.parent.iterdir())
    target.write_bytes(b"damaged")
    files.download(server.url + "data", target, right)
    assert target.read_bytes() == server.files["data"]
    assert [p.name for p in target.parent.iterdir()] == ["data"]


@pytest.mark.parametrize("form", ["npz", "torchvision"])
def test_a_folder_of_cifar10_gives_its_bytes_and_labels(form, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3), dtype=np.uint8)
    labels = [3, 1, 4, 1, 5, 9]
    if form == "npz":
        np.savez(tmp_path / "cifar10_train.npz", images=pixels, labels=np.uint8(labels))
        np.savez(tmp_path / "cifar10_test.npz", images=pixels[:2], labels=np.uint8(labels[:2]))
    else:
        folder = tmp_path / "cifar-10-batches-py"
        folder.mkdir()
        for name, part in {"data_batch_1": slice(0, 4), "data_batch_2": slice(4, 6),
                           "test_batch": slice(0, 2)}.items():
            planes = pixels[part].transpose(0, 3, 1, 2).reshape(-1, 3072)
            content = pickle.dumps({b"data": planes, b"labels": labels[part]}, protocol=2)
            (folder / name).write_bytes(content)
    train, test = (datasets.cifar10_folder(tmp_path, split) for split in ("train", "test"))
    assert train.x.dtype == torch.uint8 and train.y.tolist() == labels
    assert np.array_equal(train.x.permute(0, 2, 3, 1).numpy(), pixels)
    assert len(test) == 2 and test.names == ["cat", "automobile"]


def test_a_folder_without_cifar10_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="neither"):
        datasets.cifar10_folder(tmp_path)


def test_a_program_in_place_of_cifar10_is_not_run(tmp_path):
    (tmp_path / "cifar-10-batches-py").mkdir()
    program = pickle.dumps(os.system, protocol=2)
    (tmp_path / "cifar-10-batches-py" / "test_batch").write_bytes(program)
    with pytest.raises(pickle.UnpicklingError, match="system has no place"):
        datasets.cifar10_folder(tmp_path, "test")


def test_a_missing_page_is_an_error_that_leaves_nothing(server, tmp_path):
    with pytest.raises(OSError, match="404"):
        files.download(server.url + "nothing", tmp_path / "nothing", "0" * 64)
    assert not list(tmp_path.iterdir())


def test_a_pickle_in_place_of_the_faces_is_refused(monkeypatch, tmp_path):
    (tmp_path / "data").mkdir()
    np.save(tmp_path / "data" / "lfw_subset.npy", np.array([{"a": 1}], dtype=object))
    monkeypatch.setattr(datasets, "_package", lambda name: tmp_path)
    with pytest.raises(ValueError, match="allow_pickle=False"):
        datasets.faces()


def test_a_photograph_of_your_own(tmp_path):
    """Its middle square, the right way up; from a path or from what the file holds."""
    file = tmp_path / "own.png"
    pixels = np.zeros((300, 448, 3), dtype=np.uint8)
    pixels[:150, 74:374] = 255
    lying = Image.Exif()
    lying[274] = 6  # a telephone's note: turn by a quarter to the right
    Image.fromarray(pixels).save(file, exif=lying)
    x = datasets.own_photograph(file)
    assert x.shape == (1, 3, 224, 224) and x.dtype == torch.float32
    inner = x[..., 4:-4, 4:-4]  # the rim mixes with what was cut off
    assert bool((inner[..., 116:] == 1).all()) and bool((inner[..., :100] == 0).all())
    assert torch.equal(datasets.own_photograph(file.read_bytes()), x)


def test_a_photograph_that_was_saved_comes_back_as_it_was(tmp_path):
    x = torch.randint(0, 256, (3, 224, 224), generator=torch.Generator().manual_seed(0)) / 255
    assert torch.equal(datasets.own_photograph(plots.save_png(x, tmp_path / "a" / "x.png"))[0], x)


def test_a_file_that_is_no_photograph(tmp_path):
    with pytest.raises(ValueError, match="no picture that Pillow can read: try a JPEG or a PNG"):
        datasets.own_photograph(b"holiday")
    with pytest.raises(FileNotFoundError):
        datasets.own_photograph(tmp_path / "nothing.jpg")
