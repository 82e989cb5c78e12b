"""The four questions, answered from the followed graph alone.

1  weight transport   does a signal go backward through a forward weight, or what learns from one?
2  locality           given one broadcast signal, what else of other layers does an update need?
3  frozen activity    does the signal change the activities that updates are made of?
4  update locking     how long does each update wait, and what may start before it is done?
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from torch.fx import Node

from forwardly.audit import ops
from forwardly.audit.flow import Flow, Product, ancestors, follow
from forwardly.audit.trace import Traced


@dataclass(frozen=True)
class Evidence:
    """An operation of the graph: what it does, its ATen name and the rule's line that makes it."""

    what: str
    operation: str
    line: str


@dataclass(frozen=True)
class Finding:
    """An answer, the layers whose weights are at work, and the operations that show it."""

    answer: Literal["none", "partial", "full", "frozen", "modulated", "no hidden updates"]
    layers: tuple[int, ...] = ()
    evidence: tuple[Evidence, ...] = ()


@dataclass(frozen=True)
class Needs:
    """What an update depends on beyond its own layer, those before it, and the broadcast signal.

    Attributes:
        signals: which global signals it takes: "error", "target".
        weights: later layers whose weights it depends on other than through their activities.
        activities: later layers whose activities it depends on.
        feedback: feedback state that reaches it mixed with what belongs to later layers.
        upstream: earlier layers whose activities it depends on (these are its input).
    """

    signals: tuple[str, ...]
    weights: tuple[int, ...]
    activities: tuple[int, ...]
    feedback: tuple[str, ...]
    upstream: tuple[int, ...]

    @property
    def local(self) -> bool:
        """Whether nothing of later layers is needed."""
        return not (self.weights or self.activities or self.feedback)


@dataclass(frozen=True)
class Locality:
    """What each trained layer's update needs.

    Attributes:
        answer: whether all updates are local.
        layers: the needs of each trained layer.
        own: those of each parameter of the rule itself, such as feedback that learns, beyond what
            arrives there and the layer that it leads to.
    """

    answer: Literal["local", "non-local"]
    layers: Mapping[int, Needs]
    own: Mapping[str, Needs]


@dataclass(frozen=True)
class Times:
    """The synaptic steps after which each pass reaches a layer and its update, if any, is known."""

    activities: tuple[int, ...]
    update: int | None


@dataclass(frozen=True)
class Locking:
    """When things are known, and what waits for what.

    Attributes:
        layers: the timetable.
        total: steps until all updates are known.
        update_locked: trained layers whose update waits for later layers' forward pass.
        backward_locked: those that wait for what later layers compute, or send back through
            feedback matrices one after the other, once the output is known.
        next_sample: after how many steps the next sample may enter so that it meets each layer with
            its weights updated.
        passes: how often signals go forward through the first layer.
    """

    layers: Mapping[int, Times]
    total: int
    update_locked: tuple[int, ...]
    backward_locked: tuple[int, ...]
    next_sample: int
    passes: int

    @property
    def steps(self) -> int:
        """The last step in which something happens, at least 1."""
        times = self.layers.values()
        return max(1, *(t for time in times for t in (*time.activities, time.update or 0)))


@dataclass(frozen=True)
class Answers:
    """All four.

    Attributes:
        transport: "full" where weights carry a signal backward, "partial" where functions of them
            do, or where what the rule learns of its own learns from their values, or "none".
        both_ways: matrices of the rule's own, by name, that carry signals in both directions, M a
            and Mᵀ δ, on the way to an update: symmetric weights, though none of the model's.
        locality: what each trained layer's update needs.
        frozen: "modulated" where activities that enter hidden updates descend from the global
            signal, "frozen" where the updates do but none of these, or "no hidden updates".
        locking: when things are known.
    """

    transport: Finding
    both_ways: tuple[str, ...]
    locality: Locality
    frozen: Finding
    locking: Locking

    def as_data(self) -> dict[str, Any]:
        """Plain data, for audit.json."""
        return asdict(self)


def answer(flow: Flow) -> Answers:
    """Answer the four questions."""
    return Answers(
        _transport(flow), _both_ways(flow.traced), _locality(flow), _frozen(flow), _locking(flow)
    )


def _transport(flow: Flow) -> Finding:
    useful = ancestors(flow.traced.updates.values())
    found = [p for p in flow.products if p.direction == "backward" and p.node in useful]
    layers, evidence = _shown(found)
    for name, node in _own_updates(flow).items():
        copied = _needs(flow, 0, [node]).weights
        layers += copied
        evidence += tuple(
            Evidence(
                f"the update of {name} is made of W_{layer} itself",
                str(node.target),
                str(node.meta.get("line", "")),
            )
            for layer in copied
        )
    if not layers:
        return Finding("none")
    answer = "full" if any(p.exact for p in found) else "partial"
    return Finding(answer, tuple(sorted({*layers})), evidence)


def _both_ways(traced: Traced) -> tuple[str, ...]:
    """The rule's own matrices, followed as if they were the layers' weights."""
    own = [
        (name, node)
        for name, node in traced.state.items()
        if not name.startswith("model.") and len(node.meta["val"].shape) == 2
    ]
    as_weights = {node: (i, False) for i, (_, node) in enumerate(own)}
    followed = follow(replace(traced, weights=as_weights))
    useful = ancestors(traced.updates.values())
    ways = {(p.layer, p.direction) for p in followed.products if p.node in useful}
    return tuple(
        name for i, (name, _) in enumerate(own) if {(i, "forward"), (i, "backward")} <= ways
    )


def _shown(products: list[Product]) -> tuple[tuple[int, ...], tuple[Evidence, ...]]:
    """Their layers, and each as evidence."""
    evidence: list[Evidence] = []
    for node, layer, direction, exact in products:
        index = "input" if direction == "forward" else "output"
        of = "" if exact else "a function of "
        what = f"a signal times {of}W_{layer}, summed over its {index} index"
        evidence.append(Evidence(what, str(node.target), str(node.meta.get("line", ""))))
    return tuple(sorted({product.layer for product in products})), tuple(evidence)


def _updates_of(flow: Flow) -> dict[int, list[Node]]:
    """The results that are updates of each trained layer's parameters."""
    results = {f"model.{name}": node for name, node in flow.traced.updates.items()}
    found = {
        l: [results[name] for name in names if name in results]
        for l, names in flow.traced.layers.items()
    }
    return {l: nodes for l, nodes in found.items() if nodes}


def _own_updates(flow: Flow) -> dict[str, Node]:
    """The results that are updates of the rule's own parameters, by their names in the rule."""
    traced = flow.traced
    return {
        name.removeprefix("rule."): node
        for name, node in traced.updates.items()
        if f"model.{name}" not in traced.state
    }


def _locality(flow: Flow) -> Locality:
    layers = {l: _needs(flow, l, nodes) for l, nodes in _updates_of(flow).items()}
    own = {name: _own_needs(flow, name, node) for name, node in _own_updates(flow).items()}
    local = all(needs.local for needs in (*layers.values(), *own.values()))
    return Locality("local" if local else "non-local", layers, own)


def _own_needs(flow: Flow, name: str, update: Node) -> Needs:
    """As if it were of the last layer whose update it serves; what it is multiplied with is there.

    So feedback to layer l may learn from the signal that it carries, and from layer l's activity.
    """
    products = {node for node, names in flow.feedback.items() if name in names}
    arriving = {
        source for node in products for source in node.all_input_nodes if flow.values[source].signal
    }
    served = [l for l, nodes in _updates_of(flow).items() if ancestors(nodes) & products]
    return _needs(flow, max(served, default=0), [update], arriving)


def _needs(flow: Flow, l: int, updates: list[Node], arriving: Set[Node] = frozenset()) -> Needs:
    """Walk back from an update; stop at the broadcast signal, and at signals that are there."""
    traced = flow.traced
    owner = {node: m for node, (m, _) in traced.weights.items()}
    # Biases and the parameters of normalisations make a layer's activity, as does its input.
    others = {
        traced.state[name]: m
        for m, names in traced.layers.items()
        for name in names
        if traced.state[name] not in owner
    }
    signals: set[str] = set()
    weights: set[int] = set()
    activities: set[int] = set()
    reached: set[Node] = set()
    stack: list[tuple[Node, frozenset[int]]] = [(node, frozenset()) for node in updates]
    seen: set[tuple[Node, frozenset[int]]] = set()
    while stack:
        node, inside = stack.pop()
        if (node, inside) in seen:
            continue
        seen.add((node, inside))
        reached.add(node)
        value = flow.values[node]
        if value.broadcast:
            signals.add("target" if _only_target(flow, node) else "error")
        elif node in arriving:
            continue
        elif node in others:
            activities.add(others[node])
        elif node in owner:
            weights |= {owner[node]} - inside
        else:
            through = {c.layer for c in value.crossings if c.direction == "forward"}
            activities |= through
            # Inside a product with W_m the way to W_m itself is the synapse, not one more need.
            inside |= through
            stack += [
                (source, inside & flow.values[source].layers) for source in node.all_input_nodes
            ]
    later = {m for m in traced.layers if m > l}
    return Needs(
        tuple(sorted(signals)),
        tuple(sorted(weights & later)),
        tuple(sorted(activities & later)),
        tuple(sorted(_mixed_feedback(flow, updates, reached, later))),
        tuple(sorted(m for m in activities if m < l)),
    )


def _only_target(flow: Flow, node: Node) -> bool:
    """Whether a broadcast value is made of the target without the network's output."""
    return flow.traced.x not in ancestors([node])


def _mixed_feedback(
    flow: Flow, updates: list[Node], reached: set[Node], later: set[int]
) -> set[str]:
    """Feedback state on whose way to the update stands something that depends on later layers."""
    among = {node for node in reached if not flow.values[node].broadcast}
    downstream = {p.node for p in flow.products if p.layer in later and p.node in among}
    tainted = flow.descendants(downstream, among)
    mixed: set[str] = set()
    for start, names in flow.feedback.items():
        way = flow.descendants({start}, among) if start in reached else set[Node]()
        if not way.isdisjoint(tainted) and not way.isdisjoint(updates):
            mixed |= names
    return mixed


def _frozen(flow: Flow) -> Finding:
    updates = _updates_of(flow)
    last = max(flow.traced.layers)
    hidden = [node for l, nodes in updates.items() if l < last for node in nodes]
    if not hidden:
        return Finding("no hidden updates")
    modulated = ancestors(hidden) & flow.descendants(_broadcast(flow))
    found = [
        product
        for product in flow.products
        if product.direction == "forward" and product.layer < last and product.node in modulated
    ]
    return Finding("modulated" if found else "frozen", *_shown(found))


def _broadcast(flow: Flow) -> set[Node]:
    return {node for node, value in flow.values.items() if value.broadcast}


def _locking(flow: Flow) -> Locking:
    steps = _steps(flow)
    passes: dict[int, dict[Node, int]] = {l: {} for l in flow.traced.layers}
    for product in flow.products:
        if product.direction == "forward":
            passes[product.layer][product.node] = steps[product.node]
    updates = _updates_of(flow)
    waits = {l: max(steps[node] for node in nodes) for l, nodes in updates.items()}
    errors = {node for node in _broadcast(flow) if not _only_target(flow, node)}
    after_output = flow.descendants(errors)
    locked: list[int] = []
    backward: list[int] = []
    for l, nodes in updates.items():
        needed = ancestors(nodes)
        later = [p for p in flow.products if p.layer > l and p.node in needed]
        if any(product.direction == "forward" for product in later):
            locked.append(l)
        relayed = needed & flow.feedback.keys() & after_output
        chained = any(_chained(flow, node) for node in relayed)
        if chained or any(product.node in after_output for product in later):
            backward.append(l)
    return Locking(
        {l: Times(tuple(times.values()), waits.get(l)) for l, times in passes.items()},
        max(waits.values(), default=0),
        tuple(locked),
        tuple(backward),
        max(1, *(wait - l + 1 for l, wait in waits.items())),
        len(passes[min(passes)]) // len(flow.traced.synapses(min(passes))),
    )


def _directly(flow: Flow, node: Node) -> bool:
    """Whether a feedback product is with the broadcast signal itself."""
    added = node.args[:-2] if ops.packet_of(node.target) in ops.MATRIX_PRODUCTS else ()
    factors = [flow.values[factor] for factor in node.all_input_nodes if factor not in added]
    return all(factor.broadcast for factor in factors if factor.signal)


def _chained(flow: Flow, node: Node) -> bool:
    """Whether feedback carries on a signal; state that is added to one, as it moves, does not."""
    return ops.packet_of(node.target) not in ops.SUMS and not _directly(flow, node)


def _steps(flow: Flow) -> dict[Node, int]:
    """The longest way from the input in synaptic steps.

    A step is a signal's way through a layer's weight, forward or backward, or through a feedback
    matrix; but the broadcast of the global signal, its first feedback matrix included, takes none.
    """
    steps: dict[Node, int] = {}
    for node, value in flow.values.items():
        before = max((steps[source] for source in node.all_input_nodes), default=0)
        relayed = (
            node in flow.feedback
            and ops.packet_of(node.target) in ops.PRODUCTS
            and not _directly(flow, node)
        )
        steps[node] = before + (bool(value.crossings) or relayed)
    return steps
