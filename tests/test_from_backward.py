"""What came with ``loss.backward()``: it works, or says what to do; docs/from-backward.md."""

from __future__ import annotations

import copy
import io
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

import forwardly as fw
from forwardly.fast.sgd import Descent
from forwardly.testing import CASES
from forwardly.training.functional import state_of, step_of

pytestmark = pytest.mark.unchecked

PAGE = Path(__file__).parent.parent / "docs" / "from-backward.md"
X = torch.randn(32, 6, generator=torch.Generator().manual_seed(0))
Y = torch.randint(0, 3, (32,), generator=torch.Generator().manual_seed(1))


def net() -> nn.Sequential:
    torch.manual_seed(2)
    hidden = nn.Linear(6, 20), nn.BatchNorm1d(20, affine=False), nn.ReLU(), nn.Dropout(0.2)
    return nn.Sequential(*hidden, nn.Linear(20, 9), nn.Tanh(), nn.Linear(9, 3))


def make(name: str) -> fw.Rule:
    kind: Any = fw.RULES[name]
    return kind(net(), nn.CrossEntropyLoss(), generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("name", fw.RULES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_changes_nothing(name: str, dtype: torch.dtype) -> None:
    rule, stepped = make(name), make(name)
    other, expected = copy.deepcopy(rule), copy.deepcopy(stepped)
    with torch.autocast("cpu", dtype=dtype):
        pure = rule(X, Y)
        rule.accumulate(X, Y)
        fw.LocalSGD(stepped, 0.1, 0.9).step(X, Y)
        assert torch.is_autocast_enabled("cpu")
    assert_close(pure, other(X, Y), rtol=0, atol=0)
    other.accumulate(X, Y)
    assert rule.noise is not None
    fw.LocalSGD(expected, 0.1, 0.9).step(X, Y)
    assert_close(stepped.state_dict(), expected.state_dict(), rtol=0, atol=0)
    for key, parameter in other.model.named_parameters():
        assert_close(rule.model.get_parameter(key).grad, parameter.grad, rtol=0, atol=0)


def test_training_and_evaluation_run_under_autocast() -> None:
    part = fw.data.Split(X, Y)
    dataset = fw.data.Dataset("mine", 3, part, part, part)
    rule = make("pepita")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rows = fw.fit(rule, dataset, fw.LocalSGD(rule, 0.1), epochs=2).rows
        assert rule.predict(X).dtype == torch.bfloat16  # evaluation is the model's own
    assert rows[-1]["loss"] > 0


@pytest.mark.parametrize("local", [False, True])
def test_evaluation_under_autocast_sees_the_weights_as_they_are(local: bool) -> None:
    """Autocast keeps the weights that it has rounded until it ends, however they change."""
    rule = make("pepita")
    optimizer: Any = (fw.LocalSGD if local else torch.optim.SGD)(
        *((rule,) if local else (rule.model.parameters(),)), 0.5
    )
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rule.predict(X)
        if local:
            optimizer.step(X, Y)
        else:
            rule.accumulate(X, Y)
            optimizer.step()
        within = rule.eval().predict(X)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert_close(within, rule.predict(X), rtol=0, atol=0)


def test_predictions_around_a_step_under_autocast() -> None:
    rule = fw.Backprop(nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)), nn.MSELoss())
    optimizer = torch.optim.SGD(rule.model.parameters(), 5.0)
    x, target = torch.rand(4, 6), torch.rand(4, 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rule.accumulate(x, target)
        before = rule.predict(x)
        optimizer.step()
        after = rule.predict(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        expected = rule.predict(x)
    assert not torch.equal(before, after)
    assert torch.equal(after, expected)


def test_a_jacobian_mirror_under_autocast() -> None:
    net = nn.Sequential(nn.Linear(6, 20, bias=False), nn.ReLU(), nn.Linear(20, 3, bias=False))
    rule = fw.PEPITA(net, nn.CrossEntropyLoss())
    other = copy.deepcopy(rule)
    mirrors = [
        fw.feedback.JacobianMirror(r, generator=torch.Generator().manual_seed(1))
        for r in (rule, other)
    ]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rule.predict(X)  # which leaves weights in bfloat16 behind
        mirrors[0].step(X)
    mirrors[1].step(X)
    assert_close(rule.F, other.F, rtol=0, atol=0)


def test_mirrors_and_pure_steps_under_autocast() -> None:
    net = nn.Sequential(nn.Linear(6, 20, bias=False), nn.ReLU(), nn.Linear(20, 3, bias=False))
    rule = fw.PEPITA(net, nn.CrossEntropyLoss(), projection=fw.feedback.product())
    other = copy.deepcopy(rule)
    mirrors = [fw.feedback.Mirror(r, generator=torch.Generator()) for r in (rule, other)]
    step = step_of(rule, {"model.0.weight": Descent(0.9, 0.0, 0.1, nesterov=False)})
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mirrors[0].step()
        within = step(state_of(rule), X, Y)
    mirrors[1].step()
    assert_close(rule.state_dict(), other.state_dict(), rtol=0, atol=0)
    assert_close(within, step(state_of(rule), X, Y), rtol=0, atol=0)


@pytest.mark.parametrize("name", fw.RULES)
def test_inference_mode_changes_nothing(name: str) -> None:
    """What is made in it can be used outside, by clipping and optimizers."""
    rule = make(name)
    other = copy.deepcopy(rule)
    expected = other.accumulate(X, Y)
    with torch.inference_mode():
        pure = rule(X, Y)
        credit = rule.accumulate(X.clone(), Y.clone())  # inference tensors themselves
        assert X.clone().is_inference()
    assert_close(pure, expected, rtol=0, atol=0)
    assert not any(value.is_inference() for value in (*credit.updates.values(), *credit[1:]))
    assert float(nn.utils.clip_grad_norm_(rule.parameters(), 1e6)) > 0
    torch.optim.SGD(rule.parameters(), 0.1, 0.9).step()
    torch.optim.SGD(other.parameters(), 0.1, 0.9).step()
    assert_close(rule.state_dict(), other.state_dict())
    local = fw.LocalSGD(rule, 0.1, 0.9)
    with torch.inference_mode():
        local.step(X, Y)
    local.step(X, Y)
    assert not any(value.is_inference() for value in rule.state_dict().values())


@pytest.mark.parametrize("name", fw.RULES)
def test_what_is_built_in_inference_mode(name: str) -> None:
    """A rule trains all the same; a model computes, and torch says that nothing may write to it."""
    model = net()
    with torch.inference_mode():
        kind: Any = fw.RULES[name]
        rule = kind(model, nn.CrossEntropyLoss())
        frozen = make(name)
    rule.accumulate(X, Y)
    fw.LocalSGD(rule, 0.1, 0.9).step(X, Y)
    frozen(X, Y)
    with pytest.raises(RuntimeError, match="inference tensor outside InferenceMode"):
        fw.LocalSGD(frozen, 0.1, 0.9).step(X, Y)


def test_a_grad_scaler_says_that_it_is_not_needed() -> None:
    """It would divide what it never multiplied."""
    rule, scaler = make("pepita"), torch.amp.GradScaler("cpu")
    for credit in (rule.accumulate(X, Y), fw.LocalSGD(rule, 0.1).step(X, Y)):
        with pytest.raises(TypeError, match=r"updates are not scaled.*call optimizer\.step\(\) wi"):
            scaler.scale(credit.loss)
        with pytest.raises(TypeError, match="updates are not scaled"):
            scaler.scale([credit.loss])
    off = torch.amp.GradScaler("cpu", enabled=False)
    assert off.scale(credit.loss) is credit.loss


def test_a_loss_cannot_be_differentiated_but_used() -> None:
    loss = make("pepita").accumulate(X, Y).loss
    with pytest.raises(NotImplementedError, match="there is no backward pass: accumulate has"):
        loss.backward()
    scale = 2 * loss + torch.ones(())
    assert type(scale) is Tensor
    assert float(loss) == loss.item() == float(f"{loss.item()}")
    assert f"{loss:.3f}" == f"{float(loss):.3f}"
    assert type(torch.stack([loss, loss])) is Tensor
    assert type(copy.deepcopy(loss)) is Tensor
    assert loss.numpy() == float(loss)
    file = io.BytesIO()
    torch.save({"loss": loss}, file)
    file.seek(0)
    assert_close(torch.load(file, weights_only=True)["loss"], torch.as_tensor(float(loss)))


REPLICA = """
import os
import sys
import torch
import forwardly as fw
from torch import distributed, nn

import torch._dynamo  # as wrapping does: once for both processes

other = os.fork()
rank = int(not other)
distributed.init_process_group("gloo", init_method=sys.argv[1], rank=rank, world_size=2)
torch.manual_seed(0)
model = nn.Sequential(nn.Linear(6, 20), nn.ReLU(), nn.Linear(20, 3)).double()
x, y = torch.randn(8, 6).double(), torch.randint(0, 3, (8,))
rule = fw.PEPITA(model, nn.CrossEntropyLoss(), projection=fw.feedback.uniform(0.5))

for whole in (model, nn.ModuleList([rule])):
    wrapped = nn.parallel.DistributedDataParallel(whole)
    for use in (lambda: fw.PEPITA(model, nn.CrossEntropyLoss()), lambda: rule(x, y)):
        try:
            use()
        except TypeError as refused:
            assert "is wrapped in DistributedDataParallel" in str(refused), refused
        else:
            raise AssertionError("it was not refused")
    del wrapped

whole = rule(x, y).updates["0.weight"]
mine = slice(4 * rank, 4 * rank + 4)
rule.accumulate(x[mine], y[mine])
AVERAGE
average(model)
torch.testing.assert_close(model[0].weight.grad, whole)
distributed.destroy_process_group()
if other:
    assert os.waitstatus_to_exitcode(os.waitpid(other, 0)[1]) == 0
"""


@pytest.mark.skipif(os.name != "posix", reason="one process imports torch for both, and forks")
def test_replicas_of_data_parallelism(tmp_path: Path) -> None:
    """Two processes: a wrapped model is refused, and averaging by hand gives the whole batch's."""
    (average,) = (code for code in snippets() if "all_reduce" in code)
    program = REPLICA.replace("AVERAGE\n", average)
    done = subprocess.run(
        [sys.executable, "-c", program, f"file://{tmp_path}/store"],
        stderr=subprocess.PIPE,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr


def snippets() -> list[str]:
    return re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


def test_the_page_runs() -> None:
    namespace: dict[str, Any] = {}
    for code in snippets():
        exec(code, namespace)
    assert len(snippets()) == 9
    total, model = namespace["total"], namespace["model"]
    assert total > namespace["credit"].loss
    assert total.requires_grad
    assert all(parameter.grad is not None for parameter in model.parameters())
    output = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    target = torch.tensor([0, 2, 1, 1, 0])
    p = output.softmax(1).gather(1, target[:, None])
    (expected,) = torch.autograd.grad((-((1 - p) ** 2) * p.log()).sum(), output)
    assert_close(namespace["focal_error"](output.detach(), target), expected)


def test_modules_that_wrap_a_model_are_refused() -> None:
    wrappers: list[Any] = [nn.DataParallel, torch.compile, lambda m: nn.ModuleList([m])]
    for wrap in wrappers:
        with pytest.raises(TypeError, match=r"the model must be an nn\.Sequential; given"):
            fw.PEPITA(wrap(net()), nn.CrossEntropyLoss())


def test_penalties_are_differentiated_beside_it() -> None:
    rule, theirs = make("backprop").eval(), make("backprop").eval().model
    loss = rule.accumulate(X, Y).loss + sum(p.square().sum() for p in rule.model.parameters())
    loss.backward()
    penalty = sum(p.square().sum() for p in theirs.parameters())
    (nn.functional.cross_entropy(theirs(X), Y) + penalty).backward()
    for ours, usual in zip(rule.model.parameters(), theirs.parameters(), strict=True):
        assert_close(ours.grad, usual.grad)


def test_accumulation_over_batches_is_a_sum() -> None:
    rule = make("pepita").eval()
    first, second = (rule(part_x, part_y).updates for part_x, part_y in ((X, Y), (2 * X, Y)))
    rule.accumulate(X, Y)
    rule.accumulate(2 * X, Y)
    for name, update in first.items():
        assert_close(rule.model.get_parameter(name).grad, update + second[name])


def test_every_case_runs_under_both() -> None:
    """Autocast and inference mode, on every kind of network."""
    for case in CASES:
        x, target = case.batch()
        rule = fw.ReadoutOnly(case.model(), case.loss())
        expected = rule(x, target)
        with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
            assert_close(rule(x, target), expected, rtol=0, atol=0)
