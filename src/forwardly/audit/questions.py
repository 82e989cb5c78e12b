"""The four questions, answered from the followed graph alone.

1  weight transport   does a signal go backward through a forward weight?
2  locality           given one broadcast signal, what else of other layers does an update need?
3  frozen activity    does the signal change the activities that updates are made of?
4  update locking     how long does each update wait, and what may start before it is done?
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from torch.fx import Node

from forwardly.audit.flow import Flow, Product, factors


@dataclass(frozen=True)
class Evidence:
    """An operation of the graph: what it does, its ATen name and the line that it comes from."""

    what: str
    operation: str
    line: str


@dataclass(frozen=True)
class Transport:
    """Weights that carry a signal backward, and the operations that show it."""

    answer: Literal["none", "partial", "full"]
    layers: tuple[int, ...]
    evidence: tuple[Evidence, ...]


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
    """What each trained layer's update needs."""

    answer: Literal["local", "non-local"]
    layers: Mapping[int, Needs]


@dataclass(frozen=True)
class Frozen:
    """Whether activities that enter updates descend from the global signal.

    ``answer`` is "modulated" where they do; "frozen" where hidden updates depend on the signal but
    no activity in them does; "no hidden updates" where hidden layers do not learn.
    """

    answer: Literal["frozen", "modulated", "no hidden updates"]
    layers: tuple[int, ...]
    evidence: tuple[Evidence, ...]


@dataclass(frozen=True)
class Times:
    """Of one layer, in synaptic steps from the input: activities and update.

    Attributes:
        activities: when each pass reaches the layer, first the clean one.
        update: when the update is known; None if the layer is not trained.
    """

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


@dataclass(frozen=True)
class Answers:
    """All four."""

    transport: Transport
    locality: Locality
    frozen: Frozen
    locking: Locking

    def as_data(self) -> dict[str, Any]:
        """Plain data, for audit.json."""
        return asdict(self)


def answer(flow: Flow) -> Answers:
    """Answer the four questions."""
    return Answers(_transport(flow), _locality(flow), _frozen(flow), _locking(flow))


def _transport(flow: Flow) -> Transport:
    useful = _ancestors(flow.traced.updates.values())
    found = [p for p in flow.products if p.direction == "backward" and p.node in useful]
    exact = any(product.exact for product in found)
    kind: Literal["none", "partial", "full"] = (
        "none" if not found else "full" if exact else "partial"
    )
    layers = tuple(sorted({product.layer for product in found}))
    return Transport(kind, layers, tuple(_evidence(product) for product in found))


def _evidence(product: Product) -> Evidence:
    index = "input" if product.direction == "forward" else "output"
    of = "" if product.exact else "a function of "
    return Evidence(
        f"a signal times {of}W_{product.layer}, summed over its {index} index",
        str(product.node.target),
        str(product.node.meta.get("line", "")),
    )


def _updates_of(flow: Flow) -> dict[int, list[Node]]:
    """The results that are updates of each layer's parameters."""
    traced = flow.traced
    return {
        l: found
        for l, names in traced.layers.items()
        if (
            found := [
                traced.updates[name.removeprefix("model.")]
                for name in names
                if name.removeprefix("model.") in traced.updates
            ]
        )
    }


def _locality(flow: Flow) -> Locality:
    layers = {l: _needs(flow, l, nodes) for l, nodes in _updates_of(flow).items()}
    local = all(needs.local for needs in layers.values())
    return Locality("local" if local else "non-local", layers)


def _needs(flow: Flow, l: int, updates: list[Node]) -> Needs:
    """Walk back from an update; stop at the broadcast signal."""
    traced = flow.traced
    owner = {traced.state[names[0]]: m for m, names in traced.layers.items()}
    owner |= {node: m for node, (m, _) in traced.same_values.items()}
    # Biases and the parameters of normalisations make a layer's activity, as does its input.
    others = {traced.state[n]: m for m, names in traced.layers.items() for n in names[1:]}
    forward: dict[Node, set[int]] = {}
    for product in flow.products:
        if product.direction == "forward":
            forward.setdefault(product.node, set()).add(product.layer)
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
        if node in flow.broadcast:
            signals.add("target" if _only_target(flow, node) else "error")
            continue
        if node in others:
            activities.add(others[node])
        elif node in owner and owner[node] not in inside:
            weights.add(owner[node])
        if node in owner or node in others:
            continue
        through = forward.get(node, set())
        activities |= through
        for one in node.all_input_nodes:
            made = flow.made.get(one)
            # Inside a product with W_m the way to W_m itself is the synapse, not one more need.
            way = (inside | through) & made.layers if made is not None else frozenset[int]()
            stack.append((one, way))
    later = frozenset(m for m in traced.layers if m > l)
    feedback = _mixed_feedback(flow, updates, reached, later)
    return Needs(
        tuple(sorted(signals)),
        tuple(sorted(weights & later)),
        tuple(sorted(activities & later)),
        tuple(sorted(feedback)),
        tuple(sorted(m for m in activities if m < l)),
    )


def _only_target(flow: Flow, node: Node) -> bool:
    """Whether a broadcast value is made of the target without the network's output."""
    return flow.traced.x not in _ancestors([node])


def _mixed_feedback(
    flow: Flow, updates: list[Node], reached: set[Node], later: frozenset[int]
) -> set[str]:
    """Feedback state on whose way to the update stands something that depends on later layers."""
    downstream = {
        product.node
        for product in flow.products
        if product.layer in later and product.node in reached
    }
    tainted: set[Node] = set()
    for node in flow.traced.graph.nodes:
        below = node in downstream or any(one in tainted for one in node.all_input_nodes)
        if below and node in reached and node not in flow.broadcast:
            tainted.add(node)
    mixed: set[str] = set()
    ends = set(updates)
    for start, names in flow.feedback.items():
        if start not in reached:
            continue
        # Forward from the product to the update, inside what the update needs.
        way, stack = {start}, [start]
        while stack:
            for user in stack.pop().users:
                if user in reached and user not in way and user not in flow.broadcast:
                    way.add(user)
                    stack.append(user)
        if way & tainted and way & ends:
            mixed |= names
    return mixed


def _frozen(flow: Flow) -> Frozen:
    updates = _updates_of(flow)
    last = max(flow.traced.layers)
    hidden = [node for l, nodes in updates.items() if l < last for node in nodes]
    if not hidden:
        return Frozen("no hidden updates", (), ())
    useful = _ancestors(hidden)
    descended = _descendants(flow)
    found = [
        product
        for product in flow.products
        if product.direction == "forward"
        and product.layer < last
        and product.node in useful
        and product.node in descended
    ]
    layers = tuple(sorted({product.layer for product in found}))
    kind: Literal["frozen", "modulated"] = "modulated" if found else "frozen"
    return Frozen(kind, layers, tuple(_evidence(product) for product in found))


def _descendants(flow: Flow) -> set[Node]:
    """All that depends on the broadcast signal."""
    below: set[Node] = set()
    for node in flow.traced.graph.nodes:
        if node in flow.broadcast or any(one in below for one in node.all_input_nodes):
            below.add(node)
    return below


def _locking(flow: Flow) -> Locking:
    traced = flow.traced
    steps = _steps(flow)
    forward: dict[int, list[int]] = {l: [] for l in traced.layers}
    passes: dict[int, set[Node]] = {l: set() for l in traced.layers}
    for product in flow.products:
        if product.direction == "forward" and product.node not in passes[product.layer]:
            passes[product.layer].add(product.node)
            forward[product.layer].append(steps[product.node])
    updates = _updates_of(flow)
    times = {
        l: Times(
            tuple(forward[l]),
            max(steps[node] for node in updates[l]) if l in updates else None,
        )
        for l in traced.layers
    }
    waits = {l: time.update for l, time in times.items() if time.update is not None}
    locked: list[int] = []
    backward: list[int] = []
    after_output = {
        product.node: product.layer for product in flow.products if product.node in _after(flow)
    }
    for l, nodes in updates.items():
        needed = _ancestors(nodes)
        if any(
            p.layer > l and p.direction == "forward" and p.node in needed for p in flow.products
        ):
            locked.append(l)
        later = {m for node, m in after_output.items() if node in needed and m > l}
        chained = [node for node in flow.feedback if node in needed and not _directly(flow, node)]
        if later or chained:
            backward.append(l)
    start = max((wait - l + 1 for l, wait in waits.items()), default=1)
    return Locking(
        times,
        max(waits.values(), default=0),
        tuple(locked),
        tuple(backward),
        max(start, 1),
        len(passes[min(traced.layers)]),
    )


def _after(flow: Flow) -> set[Node]:
    """What is computed from the error, and so after the output."""
    below: set[Node] = set()
    for node in flow.traced.graph.nodes:
        own = node in flow.broadcast and not _only_target(flow, node)
        if own or any(one in below for one in node.all_input_nodes):
            below.add(node)
    return below


def _directly(flow: Flow, node: Node) -> bool:
    """Whether a feedback product is with the broadcast signal itself."""
    signals = [one for one in factors(node) if one in flow.signals]
    return all(one in flow.broadcast for one in signals)


def _steps(flow: Flow) -> dict[Node, int]:
    """The longest way from the input in synaptic steps.

    A step is a signal's way through a layer's weight, forward or backward, or through a feedback
    matrix; but the broadcast of the global signal, its first feedback matrix included, takes none.
    """
    carrying = {product.node for product in flow.products}
    steps: dict[Node, int] = {}
    for node in flow.traced.graph.nodes:
        before = max((steps.get(one, 0) for one in node.all_input_nodes), default=0)
        relayed = node in flow.feedback and _is_product(node) and not _directly(flow, node)
        steps[node] = before + (node in carrying or relayed)
    return steps


def _is_product(node: Node) -> bool:
    name = str(node.target)
    return any(part in name for part in ("mm", "mv", "dot", "convolution"))


def _ancestors(nodes: Any) -> set[Node]:
    """The nodes and all that they depend on."""
    found: set[Node] = set()
    stack: list[Node] = list(nodes)
    while stack:
        node = stack.pop()
        if node not in found:
            found.add(node)
            stack.extend(node.all_input_nodes)
    return found
