"""Torch's attention and encoders of transformers equal what is written in linear layers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.testing import assert_close

import forwardly as fw
from forwardly.network import Network
from graphs import ANY_MODEL, BY_SAMPLE

D, HEADS, INNER, LENGTH = 4, 2, 5, 3


class Torch(nn.Module):
    """Torch's own.

    Args:
        padded: whether tokens whose first number is negative are padding, but for the first.
        mask: for pairs of places.
        options: of the layers.
    """

    def __init__(
        self,
        *,
        padded: bool = False,
        mask: Tensor | None = None,
        norm: bool = False,
        **options: Any,
    ) -> None:
        super().__init__()
        self.embed = nn.Linear(3, D)
        self.batch_first: bool = options.setdefault("batch_first", True)
        layer = nn.TransformerEncoderLayer(D, HEADS, INNER, **options)
        last = nn.LayerNorm(D) if norm else None
        self.encoder = nn.TransformerEncoder(layer, 2, last, enable_nested_tensor=False)
        self.head = nn.Linear(D, 3)
        self.padded = padded
        self.register_buffer("mask", mask)

    def forward(self, x: Tensor) -> Tensor:
        padding = _padding(x) if self.padded else None
        x = self.embed(x)
        x = x if self.batch_first else x.transpose(0, 1)
        x = self.encoder(x, mask=self.mask, src_key_padding_mask=padding)
        return self.head(x.mean(1 if self.batch_first else 0))


class Written(nn.Module):
    """The same from the paper's equations, with a linear layer for each projection of a layer."""

    def __init__(self, like: Torch, *, dropout: float, norm_first: bool, act: Any) -> None:
        super().__init__()
        self.embed, self.head = like.embed, like.head
        self.layers = nn.ModuleList()
        for layer in cast(list[nn.TransformerEncoderLayer], [*like.encoder.layers]):
            attention = layer.self_attn
            packed = nn.Linear(D, 3 * D)
            packed.weight, packed.bias = attention.in_proj_weight, attention.in_proj_bias
            out = nn.Linear(D, D)
            out.weight, out.bias = attention.out_proj.weight, attention.out_proj.bias
            parts = [packed, out, layer.norm1, layer.linear1, layer.linear2, layer.norm2]
            self.layers.append(nn.ModuleList(parts))
        self.norm = like.encoder.norm
        self.padded, self.dropout, self.norm_first, self.act = like.padded, dropout, norm_first, act
        self.register_buffer("mask", like.get_buffer("mask") if like.mask is not None else None)

    def drop(self, x: Tensor) -> Tensor:
        return functional.dropout(x, self.dropout, self.training)

    def attend(
        self, packed: nn.Module, out: nn.Module, x: Tensor, padding: Tensor | None
    ) -> Tensor:
        heads: list[Tensor] = []
        q, k, v = packed(x).split(D, -1)
        scores: list[Tensor] = []
        for i in range(HEADS):
            mine = slice(i * D // HEADS, (i + 1) * D // HEADS)
            score = q[..., mine] @ k[..., mine].transpose(1, 2) / (D // HEADS) ** 0.5
            if self.mask is not None:
                mask: Tensor = self.get_buffer("mask")
                score = score.masked_fill(mask, -1e30) if mask.dtype is torch.bool else score + mask
            if padding is not None:
                score = torch.where(padding[:, None, :], -1e30, score)
            scores.append(score.softmax(-1))
        weights = self.drop(torch.stack(scores, 1))
        for i in range(HEADS):
            mine = slice(i * D // HEADS, (i + 1) * D // HEADS)
            heads.append(weights[:, i] @ v[..., mine])
        return self.drop(out(torch.cat(heads, -1)))

    def feed(self, linear1: nn.Module, linear2: nn.Module, x: Tensor) -> Tensor:
        return self.drop(linear2(self.drop(self.act(linear1(x)))))

    def forward(self, x: Tensor) -> Tensor:
        padding = _padding(x) if self.padded else None
        x = self.embed(x)
        for layer in self.layers:
            packed, out, norm1, linear1, linear2, norm2 = cast(nn.ModuleList, layer)
            if self.norm_first:
                x = x + self.attend(packed, out, norm1(x), padding)
                x = x + self.feed(linear1, linear2, norm2(x))
            else:
                x = norm1(x + self.attend(packed, out, x, padding))
                x = norm2(x + self.feed(linear1, linear2, x))
        return self.head((x if self.norm is None else self.norm(x)).mean(1))


def _padding(x: Tensor) -> Tensor:
    return (x[..., 0] < 0) & (torch.arange(x.shape[1]) > 0)


CAUSAL = torch.ones(LENGTH, LENGTH, dtype=torch.bool).triu(1)
FORMS: dict[str, dict[str, Any]] = {
    "plain": {},
    "norms first": {"norm_first": True, "norm": True},
    "length first": {"batch_first": False},
    "mask": {"mask": CAUSAL},
    "mask of numbers": {"mask": torch.randn(LENGTH, LENGTH, dtype=torch.float64)},
    "padding": {"padded": True, "activation": "gelu"},
    "dropout": {"dropout": 0.4, "mask": CAUSAL},
}


def _pair(name: str, form: str) -> tuple[fw.Rule, fw.Rule]:
    """A rule on both, with the same feedback and dropout masks.

    Weight perturbation has noise by the order of parameters, which the two do not share.
    """
    torch.manual_seed(0)
    options: dict[str, Any] = {"dropout": 0.0} | FORMS[form]
    model = Torch(**options).double()
    written = Written(
        model,
        dropout=options["dropout"],
        norm_first=options.get("norm_first", False),
        act=functional.gelu if options.get("activation") == "gelu" else functional.relu,
    ).double()
    first, second = (
        cast(Callable[..., fw.Rule], fw.RULES[name])(
            m,
            nn.CrossEntropyLoss(),
            input_shape=(LENGTH, 3),
            generator=torch.Generator().manual_seed(1),
        )
        for m in (model, written)
    )
    return first, second


def _batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(5, LENGTH, 3, generator=generator, dtype=torch.float64)
    return x, torch.randint(3, (5,), generator=generator)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", [n for n in ANY_MODEL if n != "weight-perturbation"])
def test_rules_learn_what_they_learn_from_linear_layers(name: str, form: str) -> None:
    if form == "length first" and name in BY_SAMPLE:
        return  # refused, as the first dimension does not count samples
    ours, theirs = _pair(name, form)
    x, target = _batch()
    first, second = ours(x, target), theirs(x, target)
    assert_close(first.output, second.output)
    names = {id(p): n for n, p in ours.model.named_parameters()}
    of_ours = {names[id(p)]: n for n, p in theirs.model.named_parameters()}
    assert of_ours.keys() == names_of(first) == {n for n, _ in ours.model.named_parameters()} or (
        name == "readout-only"
    )
    for update in names_of(first):
        assert_close(first.updates[update], second.updates[of_ours[update]])


def names_of(credit: fw.Credit) -> set[str]:
    return {name for name in credit.updates if not name.startswith("rule.")}


@pytest.mark.parametrize("form", [form for form in FORMS if form != "mask of numbers"])
def test_predictions_are_the_models(form: str) -> None:
    """In evaluation torch has a kernel of its own; a mask of numbers makes it return NaN."""
    rule, _ = _pair("pepita", form)
    x, target = _batch()
    rule.eval()
    assert_close(rule(x, target).output, rule.model(x))
    assert_close(rule.predict(x), rule.model(x))


@pytest.mark.parametrize("form", FORMS)
def test_feedback_alignment_with_the_weights_is_autograd(form: str) -> None:
    """Of torch's own forward pass, where nothing is dropped."""
    options: dict[str, Any] = FORMS[form] | {"dropout": 0.0}
    torch.manual_seed(0)
    model = Torch(**options).double()
    rule = fw.FeedbackAlignment(model, nn.CrossEntropyLoss(), input_shape=(LENGTH, 3))
    for stage in rule.network.stages:
        if stage.sends_back:
            rule.get_buffer(f"B_{stage.same_weight}").copy_(stage.synapse.weight)
    x, target = _batch()
    updates = rule(x, target).updates
    functional.cross_entropy(model(x), target).backward()
    assert updates.keys() == {name for name, _ in model.named_parameters()}
    for name, parameter in model.named_parameters():
        assert_close(updates[name], parameter.grad)


@pytest.mark.parametrize("average", [True, False])
@pytest.mark.parametrize("per_head", [True, False])
def test_attention_alone_and_its_weights(average: bool, per_head: bool) -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(D, HEADS, batch_first=True)
            self.head = nn.Linear(D + LENGTH * (1 if average else HEADS), 3)
            self.register_buffer("mask", torch.randn(5 * HEADS, LENGTH, LENGTH))

        def forward(self, x: Tensor) -> Tensor:
            mask = self.get_buffer("mask")[: HEADS * len(x)] if per_head else None
            y, A = self.attention(x, x, x, attn_mask=mask, average_attn_weights=average)
            A = A.mean(1) if average else A.mean(2).flatten(1)
            return self.head(torch.cat([y.mean(1), A], 1))

    torch.manual_seed(0)
    model = Model()
    if per_head:  # the number of samples is in the mask's form
        with pytest.raises(TypeError, match=r"decides by the number of samples|one by one"):
            Network(model, (LENGTH, D))
        return
    rule = fw.Backprop(model, nn.CrossEntropyLoss(), input_shape=(LENGTH, D))
    x, target = torch.randn(5, LENGTH, D), torch.randint(3, (5,))
    updates = rule(x, target).updates
    functional.cross_entropy(model(x), target).backward()
    assert_close(updates, {name: p.grad for name, p in model.named_parameters()})


class From(nn.Module):
    """An attention that is given, between linear layers."""

    def __init__(self, attention: nn.Module, *, crossed: bool = False) -> None:
        super().__init__()
        self.a, self.attention, self.b = nn.Linear(D, D), attention, nn.Linear(D, 2)
        self.crossed = crossed

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)
        other = x if self.crossed else h
        return self.b(self.attention(h, other, other, need_weights=False)[0].mean(1))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (From(nn.MultiheadAttention(D, 2), crossed=True), "attends from one thing to another"),
        (From(nn.MultiheadAttention(D, 2, add_bias_kv=True)), "keys that come from no synapse"),
        (From(nn.MultiheadAttention(D, 2, add_zero_attn=True)), "keys that come from no synapse"),
        (
            nn.Sequential(nn.Linear(D, D), nn.TransformerDecoderLayer(D, 2, 4)),
            "several synapses in one",
        ),
    ],
)
def test_refusals(model: nn.Module, message: str) -> None:
    with pytest.raises(TypeError, match=rf"(?s){message}.*nn\.Linear"):
        Network(model, (LENGTH, D))


def test_the_function_is_refused() -> None:
    class Packed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention, self.b = nn.MultiheadAttention(D, 2, 0.5), nn.Linear(D, 2)

        def forward(self, x: Tensor) -> Tensor:
            a = self.attention
            weights = (a.in_proj_weight, a.in_proj_bias, None, None, False)
            out = (a.out_proj.weight, a.out_proj.bias)
            x = functional.multi_head_attention_forward(x, x, x, D, 2, *weights, dropout_p=0.5,
                out_proj_weight=out[0], out_proj_bias=out[1])[0]  # fmt: skip
            return self.b(x.mean(1))

    with pytest.raises(TypeError, match=r"use nn\.MultiheadAttention"):
        Network(Packed(), (LENGTH, D))


def test_a_forward_of_ones_own_is_not_written_out() -> None:
    class Twice(nn.MultiheadAttention):
        def forward(self, *given: Any, **options: Any) -> Any:
            y, A = super().forward(*given, **options)
            return 2 * y, A

    with pytest.raises((TypeError, ValueError)):
        fw.PEPITA(
            From(Twice(D, 2, batch_first=True)), nn.CrossEntropyLoss(), input_shape=(LENGTH, D)
        )
