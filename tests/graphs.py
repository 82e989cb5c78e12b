"""Small networks that are no chains, one for each thing that a graph may have."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

import forwardly as fw
from forwardly.testing import Case


class ResidualMLP(nn.Module):
    """h + relu(W h), and a sum before the readout."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 5)
        self.second = nn.Linear(5, 5, bias=False)
        self.third = nn.Linear(5, 5)
        self.head = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.first(x))
        h = h + functional.relu(self.second(h))
        h = h + functional.gelu(self.third(h))
        return self.head(h)


class ConvBlock(nn.Module):
    """Of a ResNet: functions that write over tensors, batch norms, a view."""

    def __init__(self, norm: Callable[[int], nn.Module] = nn.Identity) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 4, 3, padding=1)
        self.conv1 = nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.norm1 = norm(4)
        self.conv2 = nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.norm2 = norm(4)
        self.down = nn.Conv2d(4, 6, 1, stride=2)
        self.act = nn.ReLU(inplace=True)
        self.fc = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.stem(x))
        out = functional.relu(self.norm1(self.conv1(x)), inplace=True)
        out = self.norm2(self.conv2(out))
        out += x
        out = self.act(self.down(out))
        out = functional.adaptive_avg_pool2d(out, 1)
        return self.fc(out.view(out.size(0), -1))


class Attention(nn.Module):
    """Two heads, written out, and a norm before."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(3, 4)
        self.norm = nn.LayerNorm(4, elementwise_affine=False)
        self.qkv = nn.Linear(4, 12, bias=False)
        self.out = nn.Linear(4, 4)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        n, t, d = x.shape
        q, k, v = self.qkv(self.norm(x)).reshape(n, t, 3, 2, d // 2).permute(2, 0, 3, 1, 4)
        weights = (q @ k.transpose(-2, -1) / (d // 2) ** 0.5).softmax(-1)
        x = x + self.out((weights @ v).transpose(1, 2).reshape(n, t, d))
        return self.head(x.mean(1))


class Recurrent(nn.Module):
    """An unrolled network of W x + U h: two synapses of the same units, used several times."""

    def __init__(self) -> None:
        super().__init__()
        self.W = nn.Linear(3, 4)
        self.U = nn.Linear(4, 4, bias=False)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.W(x[:, 0]))
        for t in range(1, x.shape[1]):
            h = torch.tanh(self.W(x[:, t]) + self.U(h))
        return self.head(h)


class Gated(nn.Module):
    """SwiGLU, an activation that is written out, and synapses that are functions."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Parameter(torch.randn(5, 6) / 3)
        self.value = nn.Linear(6, 5)
        self.down = nn.Parameter(torch.randn(6, 5) / 3)
        self.shift = nn.Parameter(torch.randn(6) / 3)
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        z = functional.linear(x, self.gate)
        h = z * torch.sigmoid(z) * self.value(x)
        return self.head(x + functional.linear(h, self.down, bias=self.shift))


class UNet(nn.Module):
    """An encoder and a decoder, with what the one has kept beside what the other makes."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Conv2d(1, 3, 3, padding=1)
        self.inner = nn.Conv2d(3, 4, 3, padding=1)
        self.up = nn.ConvTranspose2d(4, 3, 2, stride=2)
        self.leave = nn.Conv2d(6, 2, 1)
        self.head = nn.Linear(32, 3)

    def forward(self, x: Tensor) -> Tensor:
        outer = torch.relu(self.enter(x))
        inner = torch.relu(self.inner(functional.max_pool2d(outer, 2)))
        both = torch.cat([outer, self.up(inner)], dim=1)
        return self.head(torch.flatten(torch.relu(self.leave(both)), 1))


class Dense(nn.Module):
    """Concatenation, and a dropout that is used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(5, 4)
        self.b = nn.Linear(9, 4)
        self.head = nn.Linear(13, 3)
        self.drop = nn.Dropout(0.3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([x, self.drop(torch.relu(self.a(x)))], 1)
        x = torch.cat([x, self.drop(torch.relu(self.b(x)))], 1)
        return self.head(x)


class Tied(nn.Module):
    """Two layers that have one weight, and biases of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(5, 4)
        self.b = nn.Linear(4, 4)
        self.c = nn.Linear(4, 4)
        self.c.weight = self.b.weight
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.b(torch.tanh(self.a(x))))
        return self.head(torch.tanh(self.c(h)))


class Several(nn.Module):
    """Operations that make several tensors, of numbers and of places; arguments by name."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(5, 6)
        self.drop = nn.Dropout(0.3)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.drop(input=self.a(x)))
        first, second = h.split([2, 4], dim=1)
        largest, _ = second.topk(2, dim=1)
        return self.head(
            torch.cat([first, largest, second.max(1, keepdim=True).values, h[:, 3:]], 1)[:, :8]
        )


class Windows(nn.Module):
    """Parts of a sample in the first dimension, as windows of pixels are."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Linear(4, 4)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        windows = x.reshape(-1, 4)
        windows = windows + torch.relu(self.mix(windows))
        return self.head(windows.reshape(x.shape[0], -1))


class TwoReadouts(nn.Module):
    """Outputs that two synapses add to."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(5, 4)
        self.b = nn.Linear(4, 4)
        self.wide = nn.Linear(5, 3)
        self.deep = nn.Linear(4, 3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.a(x))
        h = h + torch.tanh(self.b(h))
        return self.wide(x) + self.deep(h)


class Scaled(nn.Module):
    """Parameters one to one with units: of norms, positions and a LayerScale."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 2, bias=False)
        self.group = nn.GroupNorm(2, 4)
        self.position = nn.Parameter(torch.randn(4, 4))
        self.norm = nn.LayerNorm(4)
        self.mix = nn.Linear(4, 4)
        self.scale = nn.Parameter(torch.randn(4))
        self.root = nn.RMSNorm(4)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.group(self.conv(x))).flatten(2).transpose(1, 2)
        x = x + self.position
        x = x + self.scale * torch.tanh(self.mix(self.norm(x)))
        return self.head(self.root(x.mean(1)))


class Encoder(nn.Module):
    """Torch's own encoder of a transformer, whose attention has its parameters packed."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(4, 2, 5, dropout=0.0, batch_first=True, norm_first=True)
        self.embed = nn.Linear(3, 4)
        self.encoder = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(self.embed(x)).mean(1))


def _norm(channels: int) -> nn.Module:
    return nn.BatchNorm2d(channels, affine=False)


GRAPHS: list[Case] = [
    Case("residual", lambda: [ResidualMLP()], (6,), 3),
    Case("conv-block", lambda: [ConvBlock()], (2, 4, 4), 3),
    Case("batch-norm-block", lambda: [ConvBlock(_norm)], (2, 4, 4), 3, per_sample=False),
    Case("attention", lambda: [Attention()], (4, 3), 3),
    Case("recurrent", lambda: [Recurrent()], (4, 3), 3, nn.MSELoss),
    Case("gated", lambda: [Gated()], (6,), 3),
    Case("u-net", lambda: [UNet()], (1, 4, 4), 3),
    Case("dense", lambda: [Dense()], (5,), 3),
    Case("scaled", lambda: [Scaled()], (1, 3, 3), 3),
    Case(
        "batch-norm-affine",
        lambda: [ConvBlock(nn.BatchNorm2d)],
        (2, 4, 4),
        3,
        per_sample=False,
    ),
    Case("two-readouts", lambda: [TwoReadouts()], (5,), 3, nn.BCEWithLogitsLoss),
    Case("tied", lambda: [Tied()], (5,), 3),
    Case("several", lambda: [Several()], (5,), 3),
    Case("encoder", lambda: [Encoder()], (4, 3), 3),
    Case("windows", lambda: [Windows()], (2, 4), 3),
]
"""Models of the kit, in float64, each within an ``nn.Sequential``."""

ANY_MODEL = [name for name, rule in fw.RULES.items() if not rule.needs_chain]
"""Rules that take them."""

BY_SAMPLE = {
    *("direct-feedback-alignment", "direct-kolen-pollack", "drtp", "node-perturbation"),
}
"""Rules that need to know which units are of which sample."""


def takes(rule: str, case: Case) -> bool:
    """Whether a rule takes a network."""
    return not (case.name == "windows" and rule in BY_SAMPLE)
