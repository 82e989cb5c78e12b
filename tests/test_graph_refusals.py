"""What cannot be read of a model is refused when a rule is built, with what to do."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.testing import assert_close

import forwardly as fw
from forwardly.network import Network
from graphs import Attention, ConvBlock, Recurrent, ResidualMLP

Forward = Callable[[nn.Module, Tensor], object]


class Made(nn.Module):
    """Two linear layers, and a forward method that is given."""

    def __init__(self, forward: Forward, **modules: nn.Module | nn.Parameter) -> None:
        super().__init__()
        self.a = nn.Linear(4, 4)
        self.b = nn.Linear(4, 2)
        self.given = forward
        for name, module in modules.items():
            setattr(self, name, module)
        self.register_buffer("count", torch.zeros(()))

    def forward(self, x: Tensor) -> object:
        return self.given(self, x)


def by_value(m: nn.Module, x: Tensor) -> Tensor:
    h = m.a(x)
    return m.b(h if h.sum() > 0 else -h)


def by_number(m: nn.Module, x: Tensor) -> Tensor:
    return m.b(torch.stack([m.a(x[i]) for i in range(x.shape[0])]))


def by_item(m: nn.Module, x: Tensor) -> Tensor:
    return m.b(m.a(x)) if float(x.sum().item()) > 0 else m.b(x)


def counting(m: nn.Module, x: Tensor) -> Tensor:
    m.get_buffer("count").add_(1)
    return m.b(m.a(x))


def noisy(m: nn.Module, x: Tensor) -> Tensor:
    return m.b(m.a(x) + torch.randn(4))


def view_in_place(m: nn.Module, x: Tensor) -> Tensor:
    h = m.a(x)
    h[:, :2].mul_(2)
    return m.b(h)


def assigned(m: nn.Module, x: Tensor) -> Tensor:
    h = m.a(x)
    h[:, 0] = 0
    return m.b(h)


def pair(m: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    h = m.a(x)
    return m.b(h), h


def pooled_at_the_end(m: nn.Module, x: Tensor) -> Tensor:
    return m.b(m.a(x)).softmax(1).mean(0, keepdim=True).expand(x.shape[0], -1).cumsum(1)


def turned_round(m: nn.Module, x: Tensor) -> Tensor:
    return m.b(m.a(x)).flip(1)


def subtracted(m: nn.Module, x: Tensor) -> Tensor:
    return x[:, :2] - m.b(m.a(x))


def scaled_weight(m: nn.Module, x: Tensor) -> Tensor:
    return m.b(functional.linear(x, cast(nn.Linear, m.a).weight * 2))


def without_x(m: nn.Module, x: Tensor) -> Tensor:
    return m.b(m.a(torch.ones(1, 4)).expand(x.shape[0], -1) * 1.0)


def not_by_sample(m: nn.Module, x: Tensor) -> Tensor:
    return m.b(m.a(x)).reshape(-1, 1)


@pytest.mark.parametrize(
    ("forward", "message"),
    [
        (by_value, r"decides by the numbers in a tensor.*torch\.where"),
        (by_item, "decides by the numbers in a tensor"),
        (by_number, "decides by the number of samples"),
        (counting, "moves its buffer 'count'"),
        (noisy, r"draws random numbers.*nn\.Dropout"),
        (view_in_place, "do not compute what the model does.*in place"),
        (assigned, "without assignments to parts"),
        (pair, "returns a tuple.*one output"),
        (pooled_at_the_end, r"follows the last synapse, 'b'"),
        (turned_round, r"flip\(…\) follows the last synapse"),
        (subtracted, r"sub\(…\) follows the last synapse"),
        (scaled_weight, "weight of linear.* is computed from parameters"),
        (without_x, "does not depend on the samples"),
        (not_by_sample, "one row of outputs a sample"),
    ],
    ids=lambda given: getattr(given, "__name__", ""),
)
def test_refused_passes(forward: Forward, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        Network(Made(forward), (4,))


class NoisyLinear(nn.Linear):
    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        return super().forward(input) * 2


def through(m: nn.Module, x: Tensor) -> Tensor:
    return m.b(m.c(m.a(x)))


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (nn.LSTM(4, 4), r"'c', LSTM\(4, 4\).*several synapses in one operation"),
        (nn.GRU(4, 4), r"'c', GRU\(4, 4\).*Write it with nn\.Linear"),
        (nn.RReLU(), "'c', RReLU.*draws random numbers"),
        (NoisyLinear(4, 4), "'c', a NoisyLinear, changes the forward pass"),
        (nn.LazyLinear(4), "'c', LazyLinear.*no sizes yet"),
    ],
    ids=lambda given: type(given).__name__,
)
@pytest.mark.filterwarnings("ignore:Lazy modules")
def test_refused_modules(module: nn.Module, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        Network(Made(through, c=module), (4,))


def early(m: nn.Module, x: Tensor) -> Tensor:
    return m.b(m.a(m.c(x)))


def test_parameters_that_no_rule_of_synapses_can_train() -> None:
    """Those before a₀, and those inside of functions that are not known."""
    for forward, module in ((early, nn.LayerNorm(4)), (through, nn.PReLU())):
        model = Made(forward, c=module)
        with pytest.raises(ValueError, match=r"other parameters: c\..*requires_grad_\(False\)"):
            fw.PEPITA(model, nn.CrossEntropyLoss(), input_shape=(4,))
        model.c.requires_grad_(False)
        rule = fw.PEPITA(model, nn.CrossEntropyLoss(), input_shape=(4,))
        x, target = torch.randn(3, 4), torch.tensor([0, 1, 0])
        assert rule(x, target).updates.keys() == {"a.weight", "a.bias", "b.weight", "b.bias"}
    gradient = fw.Backprop(Made(early, c=nn.LayerNorm(4)), nn.CrossEntropyLoss(), input_shape=(4,))
    assert "c.weight" in gradient(x, target).updates


@pytest.mark.parametrize("name", [n for n, rule in fw.RULES.items() if rule.needs_chain])
def test_rules_that_need_a_chain(name: str) -> None:
    with pytest.raises(TypeError, match=r"needs a chain of layers.*ResidualMLP is none"):
        fw.RULES[name](ResidualMLP(), nn.CrossEntropyLoss(), input_shape=(6,))


def test_a_rule_of_ones_own_takes_chains_until_it_says_more() -> None:
    assert fw.Rule.needs_chain


def test_factors_of_f_are_those_of_a_chain() -> None:
    with pytest.raises(ValueError, match="product of one factor a layer in a chain"):
        fw.PEPITA(ResidualMLP(), nn.CrossEntropyLoss(), projection=fw.feedback.product())


def test_windows_and_signals_of_single_samples() -> None:
    from graphs import Windows

    with pytest.raises(TypeError, match="first dimension does not count samples"):
        fw.DirectFeedbackAlignment(Windows(), nn.CrossEntropyLoss(), input_shape=(2, 4))


def test_feedback_that_would_not_fit() -> None:
    with torch.device("meta"):
        model = nn.Sequential(nn.Conv2d(3, 64, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 1000))
    model[3] = nn.Linear(64 * 222 * 222, 1000, device="meta")
    with pytest.raises(ValueError, match=r"B_1 would have 3,154,176 × 1,000 = .* FeedbackAlignm"):
        fw.DirectFeedbackAlignment(model, nn.CrossEntropyLoss(), input_shape=(3, 224, 224))


def test_the_shape_is_asked_for() -> None:
    with pytest.raises(ValueError, match=r"pass input_shape.*\(3, 32, 32\)"):
        fw.FeedbackAlignment(ConvBlock(), nn.CrossEntropyLoss())
    with pytest.raises(ValueError, match=r"does not take samples of shape \(5,\)"):
        fw.FeedbackAlignment(ResidualMLP(), nn.CrossEntropyLoss(), input_shape=(5,))


def test_another_shape_than_the_operations_are_for() -> None:
    """A loop over x's shape was unrolled for one shape."""
    rule = fw.FeedbackAlignment(Recurrent(), nn.MSELoss(), input_shape=(4, 3))
    with pytest.raises(ValueError, match=r"read for samples of shape \(4, 3\)"):
        rule(torch.randn(2, 5, 3), torch.randn(2, 3))


def test_hooks_on_what_is_not_called() -> None:
    model = nn.Sequential(ResidualMLP())
    model[0].register_forward_hook(lambda *_: None)
    with pytest.raises(ValueError, match="ResidualMLP with a hook"):
        fw.PEPITA(model, nn.CrossEntropyLoss())


def test_a_model_that_changes_is_read_anew() -> None:
    torch.manual_seed(0)
    model = Attention()
    rule = fw.FeedbackAlignment(model, nn.CrossEntropyLoss(), input_shape=(4, 3))
    x, target = torch.randn(5, 4, 3), torch.randint(3, (5,))
    model.out.weight.requires_grad_(False)
    assert "out.weight" not in rule(x, target).updates
    model.norm = nn.LayerNorm(4, elementwise_affine=False, eps=0.5)
    assert_close(rule(x, target).output, model(x))
    model.eval()
    assert_close(rule(x, target).output, model(x))
    model.norm = nn.LayerNorm(4)  # with parameters, which are a stage of their own
    with pytest.raises(ValueError, match="build the rule anew"):
        rule(x, target)


def test_a_setting_that_changes_is_seen() -> None:
    """What was a constant when the model was traced."""

    def scaled(m: nn.Module, x: Tensor) -> Tensor:
        return m.b(
            functional.dropout(torch.tanh(m.a(x)) * float(vars(m)["factor"]), 0.5, m.training)
        )

    model = Made(scaled)
    model.factor = 2.0
    rule = fw.PEPITA(model, nn.CrossEntropyLoss(), input_shape=(4,))
    x, target = torch.randn(3, 4), torch.tensor([0, 1, 0])
    assert len(rule.network.dropouts) == 1
    model.eval()
    for factor in (2.0, 5.0):
        model.factor = factor
        assert_close(rule(x, target).output, model(x))


def test_integers_and_what_comes_out_of_an_embedding() -> None:
    class Words(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(7, 4)
            self.mix = nn.Linear(4, 4)
            self.head = nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            kept = (x > 0).unsqueeze(-1)  # a mask goes round a₀
            h = self.embed(x)
            h = h + torch.relu(self.mix(h)) * kept
            return self.head(h.mean(1))

    model = Words()
    with pytest.raises(ValueError, match=r"other parameters: embed\.weight"):
        fw.PEPITA(model, nn.CrossEntropyLoss(), input_shape=(5,))
    model.embed.requires_grad_(False)
    rule = fw.PEPITA(model, nn.CrossEntropyLoss(), input_shape=(5,))
    assert rule.F.shape == (5 * 4, 3)
    x, target = torch.randint(7, (6, 5)), torch.randint(3, (6,))
    credit = rule(x, target)
    assert torch.equal(credit.output, model(x))


def test_what_is_of_chains_alone() -> None:
    """Figures that go from layer to layer."""
    x, target = torch.randn(6, 6), torch.randint(3, (6,))
    rule = fw.PEPITA(ResidualMLP(), nn.CrossEntropyLoss())
    with pytest.raises(TypeError, match="ResidualMLP is none"):
        fw.metrics.feedback_angle(rule)
    direct = fw.DirectFeedbackAlignment(ResidualMLP(), nn.CrossEntropyLoss())
    with pytest.raises(TypeError, match="ResidualMLP is none"):
        fw.metrics.layer_angles(direct)
    aligned = fw.metrics.layer_angles(fw.FeedbackAlignment(ResidualMLP(), nn.CrossEntropyLoss()))
    assert aligned.keys() == {"second", "third", "head"}
    assert fw.metrics.update_alignment(rule, x, target).keys() == rule.trained


def test_an_input_of_another_dtype() -> None:
    rule = fw.PEPITA(ResidualMLP(), nn.CrossEntropyLoss())
    with pytest.raises(
        TypeError, match=r"input is torch\.float64, the model's weights are torch\.f"
    ):
        rule(torch.randn(3, 6).double(), torch.randint(3, (3,)))
