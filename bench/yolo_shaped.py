"""A detector in the shape of YOLO11, of our own making. Imports torch.

Of that family it has the strides, the widths, the kinds of blocks, the operations and the outputs:
6.8 and 22.4 GFLOPs for 640 x 640 where 6.5 and 21.5 are published of n and s.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

if TYPE_CHECKING:
    from pathlib import Path

SIDE, CLASSES = 640, 80
OVER_THRESHOLD = 30
"""How many of the 8,400 boxes have a confidence above the parameter's default, of a picture."""


class Conv(nn.Sequential):
    """A convolution with its activation."""

    def __init__(
        self, given: int, made: int, side: int = 1, step: int = 1, groups: int = 1
    ) -> None:
        """Take ``given`` channels and make ``made``, with a kernel of ``side`` x ``side``."""
        conv = nn.Conv2d(given, made, side, step, side // 2, groups=groups)
        super().__init__(conv, nn.SiLU(inplace=True))


class Split(nn.Module):
    """Half of the channels go on as they are, half through a residual pair too; all are mixed."""

    def __init__(self, given: int, made: int, part: float = 0.5) -> None:
        """Take ``given`` channels and make ``made``; ``part`` of these are in a half."""
        super().__init__()
        self.thick = int(made * part)
        self.begin = Conv(given, 2 * self.thick)
        thin = self.thick // 2
        self.pair = nn.Sequential(Conv(self.thick, thin, 3), Conv(thin, self.thick, 3))
        self.end = Conv(3 * self.thick, made)

    def forward(self, given: Any) -> Any:
        """Return the features."""
        one, other = self.begin(given).split(self.thick, 1)
        return self.end(torch.cat([one, other, other + self.pair(other)], 1))


class Context(nn.Module):
    """What is around: three maxima of ever wider windows, and attention between places."""

    def __init__(self, wide: int) -> None:
        """Take ``wide`` channels at a stride of 32, and make as many."""
        super().__init__()
        self.thick, self.heads = wide // 2, max(1, wide // 128)
        self.begin, self.mixed = Conv(wide, self.thick), Conv(self.thick * 4, wide)
        self.pool = nn.MaxPool2d(5, 1, 2)
        self.asked = nn.Conv2d(wide, 3 * wide, 1)
        self.told, self.grown = nn.Conv2d(wide, wide, 1), Conv(wide, 2 * wide)
        self.shrunk = nn.Conv2d(2 * wide, wide, 1)

    def forward(self, given: Any) -> Any:
        """Return the features."""
        seen = [self.begin(given)]
        for _ in range(3):
            seen.append(self.pool(seen[-1]))
        mixed = self.mixed(torch.cat(seen, 1))
        shape = mixed.shape
        one, other, value = self.asked(mixed).reshape(3, self.heads, -1, 400).unbind(0)
        weights = (one.transpose(1, 2) @ other * one.shape[1] ** -0.5).softmax(-1)
        mixed = mixed + self.told((value @ weights.transpose(1, 2)).reshape(shape))
        return mixed + self.shrunk(self.grown(mixed))


class Detector(nn.Module):
    """A trunk of five halvings, paths down and up again, and heads at three strides.

    For each stride there is a head of boxes, as distributions over 16 distances to each side, and
    one of classes. The answer is ``[1, 4 + 80, 8400]``: a box's middle and size in pixels, and its
    confidences.
    """

    places: torch.Tensor
    steps: torch.Tensor
    ladder: torch.Tensor
    lift: torch.Tensor

    def __init__(self, w: int) -> None:
        """Make it with ``w`` channels in the first layer."""
        super().__init__()
        self.stem = nn.Sequential(Conv(3, w, 3, 2), Conv(w, 2 * w, 3, 2), Split(2 * w, 4 * w, 0.25))
        self.third = nn.Sequential(Conv(4 * w, 4 * w, 3, 2), Split(4 * w, 8 * w, 0.25))
        self.fourth = nn.Sequential(Conv(8 * w, 8 * w, 3, 2), Split(8 * w, 8 * w))
        self.fifth = nn.Sequential(
            Conv(8 * w, 16 * w, 3, 2), Split(16 * w, 16 * w), Context(16 * w)
        )
        self.down4, self.down3 = Split(24 * w, 8 * w), Split(16 * w, 4 * w)
        self.up4, self.step4 = Split(12 * w, 8 * w), Conv(4 * w, 4 * w, 3, 2)
        self.up5, self.step5 = Split(24 * w, 16 * w), Conv(8 * w, 8 * w, 3, 2)
        self.twice = nn.Upsample(scale_factor=2)
        wides, many = (4 * w, 8 * w, 16 * w), max(4 * w, CLASSES)
        self.boxes = nn.ModuleList(
            nn.Sequential(Conv(c, 64, 3), Conv(64, 64, 3), nn.Conv2d(64, 64, 1)) for c in wides
        )
        self.classes = nn.ModuleList(
            nn.Sequential(
                *(Conv(c, c, 3, groups=c), Conv(c, many)),
                *(Conv(many, many, 3, groups=many), Conv(many, many)),
                nn.Conv2d(many, CLASSES, 1),
            )
            for c in wides
        )
        places, steps = [], []
        for step in (8, 16, 32):
            line = (torch.arange(SIDE // step) + 0.5) * step
            rows, columns = torch.meshgrid(line, line, indexing="ij")
            places.append(torch.stack([columns.flatten(), rows.flatten()]))
            steps.append(torch.full((rows.numel(),), float(step)))
        self.register_buffer("places", torch.cat(places, 1))
        self.register_buffer("steps", torch.cat(steps))
        self.register_buffer("ladder", torch.arange(16.0).reshape(1, 1, 16, 1))
        self.register_buffer("lift", torch.zeros(1))

    def parts(self, images: Any) -> tuple[Any, Any]:
        """Return the distances to the sides, as logits ``[1, 64, 8400]``, and the classes'."""
        p3 = self.third(self.stem(images))
        p4 = self.fourth(p3)
        p5 = self.fifth(p4)
        m4 = self.down4(torch.cat([self.twice(p5), p4], 1))
        n3 = self.down3(torch.cat([self.twice(m4), p3], 1))
        n4 = self.up4(torch.cat([self.step4(n3), m4], 1))
        seen = (n3, n4, self.up5(torch.cat([self.step5(n4), p5], 1)))
        far, sure = (
            torch.cat([head(x).flatten(2) for head, x in zip(heads, seen, strict=True)], 2)
            for heads in (self.boxes, self.classes)
        )
        return far, sure

    def forward(self, images: Any) -> Any:
        """Return the boxes of images ``[1, 3, 640, 640]``, values of 0 to 1."""
        far, sure = self.parts(images)
        far = (far.reshape(1, 4, 16, -1).softmax(2) * self.ladder).sum(2) * self.steps
        low, high = self.places - far[:, :2], self.places + far[:, 2:]
        return torch.cat([(low + high) / 2, high - low, (sure + self.lift).sigmoid()], 1)


def write(width: int, target: Path, picture: Any) -> None:
    """Write the ONNX of a detector whose first layer has ``width`` channels.

    ``picture``, bytes ``[480, 640, 3]``, is the one that it is asked about: confidences are shifted
    so that of a few boxes they are above the parameter's default.
    """
    made = Detector(width).eval()
    for each in made.modules():
        if isinstance(each, nn.Conv2d) and each.bias is not None:
            nn.init.kaiming_normal_(each.weight, nonlinearity="relu")
            nn.init.zeros_(each.bias)
    images = torch.zeros(1, 3, SIDE, SIDE)
    images[0, :, 80:560] = torch.tensor(picture).permute(2, 0, 1) / 255
    with torch.inference_mode():
        best = made.parts(images)[1].amax(1).flatten()
        made.lift.fill_(-float(best.topk(OVER_THRESHOLD).values[-1]))
    torch.onnx.export(
        made, (images,), target, input_names=["images"], output_names=["output0"], verbose=False
    )
