"""What purity buys: rules can be exported, compiled, traced, batched, copied and pickled."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import cast

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.fx.experimental.proxy_tensor import make_fx
from torch.testing import assert_close

import forwardly as fw
from compile_rule import WHOLE
from copies import DUPLICATES, check_copy
from forwardly.testing import CASES, build
from test_laws import FACTORIES

FORWARD_ONLY = [name for name, rule in fw.RULES.items() if not rule.uses_autograd]
DROPOUT = next(case for case in CASES if case.name == "dropout")


@pytest.mark.unchecked  # a symbolic size is no int
@pytest.mark.parametrize("name", FORWARD_ONLY)
def test_export(name: str) -> None:
    """For batches of any size, as a graph of torch's own operations that has no other parts."""
    rule, (x, target) = build(FACTORIES[name], WHOLE), WHOLE.batch()
    batch = torch.export.Dim("batch")
    program = torch.export.export(rule, (x, target), dynamic_shapes=({0: batch}, {0: batch}))
    call = program.module()
    for n in (6, 11):
        x, target = WHOLE.batch(n=n)
        assert_close(call(x, target), rule(x, target))
    called = [
        node.target
        for graph in program.graph_module.modules()
        for node in cast(torch.fx.GraphModule, graph).graph.nodes
        if node.op == "call_function"
    ]
    (whole,) = (target for target in called if "wrap" in str(target))
    assert whole is torch.ops.higher_order.wrap_with_set_grad_enabled  # no_grad, around all of it
    operations = [target for target in called if isinstance(target, torch._ops.OpOverload)]
    assert operations
    assert {operation.namespace for operation in operations} == {"aten"}
    # The feedback matrix is an input.
    assert ("F" in program.graph_signature.buffers) == (rule.projection_scale is not None)


@pytest.mark.unchecked
def test_an_exported_rule_can_be_decomposed() -> None:
    """To a graph without any parts, as compilers for devices ask for."""
    rule, (x, target) = build(FACTORIES["pepita"], WHOLE), WHOLE.batch()
    plain = torch.export.export(rule, (x, target)).run_decompositions({})
    operations = [node.target for node in plain.graph.nodes if node.op == "call_function"]
    assert operations
    assert not [target for target in operations if "wrap" in str(target)]
    assert_close(plain.module()(x, target), rule(x, target))


LOADED = """
import sys
import torch
import forwardly as fw

x, target, expected = torch.load(sys.argv[1])
credit = torch.export.load(sys.argv[2]).module()(x, target)
assert type(credit) is fw.Credit
torch.testing.assert_close(credit._asdict(), expected)
"""


@pytest.mark.unchecked
def test_an_exported_rule_is_saved_and_runs_elsewhere(tmp_path: Path) -> None:
    """A Credit comes back: torch finds the class by the name that it was registered by."""
    rule, (x, target) = build(FACTORIES["pepita"], WHOLE), WHOLE.batch()
    torch.export.save(torch.export.export(rule, (x, target)), tmp_path / "rule.pt2")
    torch.save((x, target, rule(x, target)._asdict()), tmp_path / "expected.pt")
    files = tmp_path / "expected.pt", tmp_path / "rule.pt2"
    done = subprocess.run(
        [sys.executable, "-c", LOADED, *files], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_backprop_cannot_be_exported_but_traced() -> None:
    rule, (x, target) = build(FACTORIES["backprop"], DROPOUT), DROPOUT.batch()
    with pytest.raises(NotImplementedError, match="cannot trace a backward pass"):
        torch.export.export(rule, (x, target))
    names = [name for name, _ in rule.named_parameters()]

    def call(x: Tensor, target: Tensor, *parameters: Tensor) -> Tensor:
        credit = functional_call(rule, dict(zip(names, parameters, strict=True)), (x, target))
        return credit.updates["1.weight"]

    graph = make_fx(call)(x, target, *(p.detach() for p in rule.parameters()))
    with torch.no_grad():
        for parameter in rule.parameters():
            parameter *= 2  # the graph must not have taken the weights as constants
    traced = graph(x, target, *(p.detach() for p in rule.parameters()))
    assert_close(traced, rule(x, target).updates["1.weight"])


@pytest.mark.long
def test_compile() -> None:
    """Every rule without a graph break, and one by the default backend, which writes C++.

    Rules of each kind of way back with every kind of stage, the others with dropout, as tracing the
    former takes a second.
    """
    from torch._inductor import cpp_builder, exc

    kinds = {"pepita", "backprop", "feedback-alignment", "forward-forward", "local-errors"}
    assert kinds < FACTORIES.keys()
    given = [f"eager:{name}:{'whole' if name in kinds else 'dropout'}" for name in FACTORIES]
    with suppress(exc.InvalidCxxCompiler):
        cpp_builder.get_cpp_compiler()
        given.append("inductor:pepita:regression")
    program = Path(__file__).with_name("compile_rule.py")
    # Three programs that torch would compile, to see whether vectors work, take longer than ours.
    environment = {**os.environ, "TORCHINDUCTOR_VEC_ISA_OK": "1"}
    done = subprocess.run(
        [sys.executable, program, *given], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    if len(given) == len(FACTORIES):
        pytest.skip("no C++ compiler on this machine, so the default backend was left out")


@pytest.mark.parametrize("name", FACTORIES)
@pytest.mark.parametrize("duplicate", DUPLICATES)
def test_copies(name: str, duplicate: Callable[[fw.Rule], fw.Rule]) -> None:
    check_copy(build(FACTORIES[name], DROPOUT), *DROPOUT.batch(), duplicate)


def test_feedback_is_state_and_not_a_parameter() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    rule = fw.PEPITA(model, nn.CrossEntropyLoss(), projection=fw.feedback.product())
    assert set(rule.state_dict()) - {f"model.{name}" for name in model.state_dict()} == {
        *("F", "F_1", "F_2"),
    }
    assert {name for name, _ in rule.named_parameters()} == {
        f"model.{name}" for name, _ in model.named_parameters()
    }
    assert rule.double().F.dtype == torch.float64
    assert rule.to("meta").F.device.type == "meta"
