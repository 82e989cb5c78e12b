"""Guards shown to bite: wrong versions of a rule, each of which the tests must reject.

A mutant is the rule's own source with one piece replaced, so that it stays up to date; a piece that
is not found exactly once fails.
"""

from __future__ import annotations

import compileall
import importlib
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from importlib.util import spec_from_file_location
from pathlib import Path
from types import CodeType, ModuleType

import pytest

import forwardly as fw
from test_controls import DENSE, backprop_is_the_chain_rule, readout_only_is_the_delta_rule
from test_laws import EXEMPT, FACTORIES
from test_pepita import NETWORKS, OPTIONS, equals_the_reference
from test_relatives import REFERENCES

# what is wrong, file, piece, replacement
Mutant = tuple[str, str, str, str]

PEPITA: list[Mutant] = [
    ("hidden sign flipped", "rules/pepita.py", "first.h - second.h", "second.h - first.h"),
    (
        "pre-activations for activities",
        "rules/pepita.py",
        "first.h - second.h",
        "first.z - second.z",
    ),
    (
        "error not added",
        "rules/pepita.py",
        "torch.addmm(a_0.flatten(1), ",
        "torch.addmm(0 * a_0.flatten(1), ",
    ),
    ("sign ignored", "rules/pepita.py", "alpha=sign", "alpha=1"),
    ("sign always minus", "rules/pepita.py", "alpha=sign", "alpha=-1"),
    (
        "presynaptic option turned round",
        "rules/pepita.py",
        'self.presynaptic == "modulated"',
        'self.presynaptic == "clean"',
    ),
    (
        "output error always the first",
        "rules/pepita.py",
        "self.error(second.a, target)",
        "e",
    ),
    (
        "output error option turned round",
        "rules/pepita.py",
        'self.output_error == "first"',
        'self.output_error == "second"',
    ),
    (
        "output layer learns like a hidden one",
        "rules/pepita.py",
        "told = e if stage.is_readout else None",
        "told = None",
    ),
    ("F transposed in value", "rules/pepita.py", ", e, F.T,", ", e.flip(1), F.T,"),
    (
        "masks drawn anew for the second pass",
        "rules/pepita.py",
        "modulated = step.activities(a_0_err, keep_z=False)",
        "modulated = self.network.step(self.noise if self.noise is None else self.noise + 1)"
        ".activities(a_0_err)",
    ),
    (
        "input changed in place",
        "rules/pepita.py",
        "torch.addmm(a_0.flatten(1), e, F.T, alpha=sign).reshape(a_0.shape)",
        "a_0.add_((e @ F.T).reshape(a_0.shape), alpha=sign)",
    ),
    ("F a parameter", "rules/pepita.py", 'rule.register_buffer("F", ', "rule.F = nn.Parameter("),
    (
        "sum for mean",
        "network/stage.py",
        "post / n, pre",
        "post, pre",
    ),
    ("sum for mean in a convolution", "network/stage.py", "pre) / n", "pre) / 1"),
    (
        "bias summed over the batch",
        "network/stage.py",
        "post.sum(positions)",
        "post.sum(positions) * len(post)",
    ),
    (
        "bias averaged over positions",
        "network/stage.py",
        "post.sum(positions)",
        "post.mean(positions) * len(post)",
    ),
    ("padding with zeros only", "network/stage.py", "mode=mode)", 'mode="constant")'),
    ("h taken before the norms", "network/step.py", "Activity(pre, z, h, ", "Activity(pre, z, z, "),
    (
        "h taken after dropout only in a",
        "network/step.py",
        "Activity(pre, z, h, ",
        "Activity(pre, z, z.relu(), ",
    ),
    ("softmax forgotten", "losses.py", "return functional.softmax(output, dim=1)", "return output"),
    (
        "error averaged",
        "losses.py",
        "return prediction(loss, output) - ",
        "return 0.5 * prediction(loss, output) - 0.5 * ",
    ),
    (
        "updates subtracted from .grad",
        "rule.py",
        "parameter.grad += update",
        "parameter.grad -= update",
    ),
    (
        "masks by the place in a share",
        "network/step.py",
        "self._share.first * math.prod(shape[1:])",
        "0",
    ),
    (
        "a share's masks from the next sample on",
        "network/step.py",
        "self._share.first * math.prod(shape[1:])",
        "(self._share.first + 1) * math.prod(shape[1:])",
    ),
    ("updates overwrite .grad", "rule.py", "parameter.grad += update", "parameter.grad = update"),
]

MUTANTS: dict[str, list[Mutant]] = {
    "pepita": PEPITA,
    "backprop": [
        ("sum for mean", "rules/backprop.py", "(e / x.shape[0])", "(e / 1)"),
        ("sign flipped", "rules/backprop.py", "pull_back((e /", "pull_back((-e /"),
        (
            "error averaged",
            "rules/backprop.py",
            "(e / x.shape[0])",
            "(e / x.shape[0] / e.shape[1])",
        ),
        (
            "the first layer twice as fast",
            "rules/backprop.py",
            "Credit(updates, output",
            "Credit({n: u * (1 + (n[0] == '0')) for n, u in updates.items()}, output",
        ),
    ],
    "readout-only": [
        ("sign flipped", "rules/readout_only.py", "stage, e.", "stage, -e."),
        ("activity for error", "rules/readout_only.py", "e.reshape(last.z.shape)", "last.h"),
        ("output for input", "rules/readout_only.py", ", last.pre)", ", last.pre * 0 + 1)"),
        (
            "error without its sign",
            "rules/readout_only.py",
            "e.reshape(last.z.shape)",
            "e.abs().reshape(last.z.shape)",
        ),
        (
            "derivative of the output",
            "rules/readout_only.py",
            "e.reshape(last.z.shape)",
            "e.reshape(last.z.shape) * step.slope(stage, last.z)",
        ),
    ],
    "feedback-alignment": [
        (
            "no derivative",
            "network/step.py",
            "self.through_activation(stage, layer.z, signal)",
            "signal.reshape(layer.z.shape)",
        ),
        (
            "signal twice as large",
            "network/step.py",
            "stage.send_back(delta, layer.pre, weights[stage.name])",
            "2 * stage.send_back(delta, layer.pre, weights[stage.name])",
        ),
        (
            "the weights themselves",
            "network/step.py",
            "weights[stage.name])",
            "stage.synapse.weight)",
        ),
        (
            "signal before the activation",
            "network/step.py",
            "stage.send_back(delta,",
            "stage.send_back(signal.reshape(delta.shape),",
        ),
        (
            "sign flipped",
            "rules/feedback_alignment.py",
            "step.update(stage, delta,",
            "step.update(stage, -delta,",
        ),
    ],
    "sign-symmetry-uniform": [
        ("weights for signs", "rules/sign_symmetry.py", "weight.sign() *", "weight *"),
        ("signs flipped", "rules/sign_symmetry.py", "weight.sign() *", "-weight.sign() *"),
        (
            "scale ignored",
            "rules/sign_symmetry.py",
            "if scale is None else scale)",
            "if scale is None else 1)",
        ),
        (
            "fan-out for fan-in",
            "rules/sign_symmetry.py",
            "weight[0].numel()",
            "weight[:, 0].numel()",
        ),
    ],
    "sign-symmetry-batch": [
        (
            "magnitudes ignored",
            "rules/sign_symmetry.py",
            "signs * step.uniform(l, tuple(signs.shape), signs.dtype)",
            "signs",
        ),
        (
            "magnitudes around zero",
            "rules/sign_symmetry.py",
            "signs * step.uniform(l, tuple(signs.shape), signs.dtype)",
            "signs * (2 * step.uniform(l, tuple(signs.shape), signs.dtype) - 1)",
        ),
        (
            "one layer's magnitudes for all",
            "rules/sign_symmetry.py",
            "step.uniform(l, ",
            "step.uniform(0, ",
        ),
        ("weights for signs", "rules/sign_symmetry.py", "weight.sign() *", "weight *"),
    ],
    "sign-symmetry-fixed": [
        (
            "magnitudes ignored",
            "rules/sign_symmetry.py",
            '_signs(stage, self.scale) * self.get_buffer(f"R_{stage.same_weight}")',
            "_signs(stage, self.scale)",
        ),
        (
            "magnitudes with signs",
            "rules/sign_symmetry.py",
            '_signs(stage, self.scale) * self.get_buffer(f"R_{stage.same_weight}")',
            'self.get_buffer(f"R_{stage.same_weight}")',
        ),
        ("weights for signs", "rules/sign_symmetry.py", "weight.sign() *", "weight *"),
        ("signs flipped", "rules/sign_symmetry.py", "weight.sign() *", "-weight.sign() *"),
    ],
    "direct-feedback-alignment": [
        (
            "no derivative",
            "rules/direct_feedback_alignment.py",
            "step.through_elementwise(stage, layer.z, signal)",
            "signal",
        ),
        (
            "sign flipped",
            "rules/direct_feedback_alignment.py",
            "signal = feedback.sent(",
            "signal = -feedback.sent(",
        ),
        (
            "derivative at h",
            "rules/direct_feedback_alignment.py",
            "through_elementwise(stage, layer.z, signal)",
            "through_elementwise(stage, layer.h, signal)",
        ),
        (
            "one matrix too many",
            "rules/direct_feedback_alignment.py",
            "B, e, layer.z)",
            "rule.B_1[: layer.z[0].numel()] * 2, e, layer.z)",
        ),
        (
            "output layer frozen",
            "rules/direct_feedback_alignment.py",
            "post = e.reshape(layer.z.shape)",
            "post = 0 * e.reshape(layer.z.shape)",
        ),
    ],
    "kolen-pollack": [
        (
            "feedback that stays",
            "rules/kolen_pollack.py",
            "step.weight_update(",
            "0 * step.weight_update(",
        ),
        (
            "feedback that turns away",
            "rules/kolen_pollack.py",
            "step.weight_update(",
            "-step.weight_update(",
        ),
        (
            "mean of the feedback's update forgotten",
            "rules/kolen_pollack.py",
            "step.weight_update(",
            "len(x) * step.weight_update(",
        ),
        (
            "a decay of its own",
            "rules/kolen_pollack.py",
            "step.weight_update(stage, delta, layer.pre)",
            "step.weight_update(stage, delta, layer.pre) + 0.1 * self.B[stage.name]",
        ),
        (
            "the weights themselves",
            "rules/kolen_pollack.py",
            "e, self.B):",
            "e, {s.name: s.synapse.weight for s in self.network.stages}):",
        ),
        (
            "no derivative",
            "network/step.py",
            "self.through_activation(stage, layer.z, signal)",
            "signal.reshape(layer.z.shape)",
        ),
    ],
    "direct-kolen-pollack": [
        (
            "feedback that stays",
            "rules/direct_kolen_pollack.py",
            "e / e.shape[0]",
            "0 * e",
        ),
        (
            "feedback that turns away",
            "rules/direct_kolen_pollack.py",
            "e / e.shape[0]",
            "-e / e.shape[0]",
        ),
        (
            "mean of the feedback's update forgotten",
            "rules/direct_kolen_pollack.py",
            "e / e.shape[0]",
            "e",
        ),
        (
            "pre-activations for activities",
            "rules/direct_kolen_pollack.py",
            "(B, layer.h,",
            "(B, layer.z,",
        ),
        (
            "sign flipped",
            "rules/direct_feedback_alignment.py",
            "signal = feedback.sent(",
            "signal = -feedback.sent(",
        ),
    ],
    "drtp": [
        ("error for target", "rules/drtp.py", "signal = -feedback", "signal = -0.5 * feedback"),
        ("sign flipped", "rules/drtp.py", "signal = -feedback", "signal = feedback"),
        (
            "no derivative",
            "rules/drtp.py",
            "step.through_elementwise(stage, layer.z, signal)",
            "signal",
        ),
        (
            "derivative at h",
            "rules/drtp.py",
            "through_elementwise(stage, layer.z, signal)",
            "through_elementwise(stage, layer.h, signal)",
        ),
        (
            "output layer by the target",
            "rules/drtp.py",
            "            updates |= step.update(stage, e.reshape",
            "            updates |= step.update(stage, (e + 1).reshape",
        ),
    ],
    "error-broadcast": [
        (
            "correlation of before the batch",
            "rules/error_broadcast.py",
            "signal = (e @ R.T)",
            "signal = (e @ before.T)",
        ),
        (
            "correlation never moves",
            "rules/error_broadcast.py",
            'step.moved[f"R_{l}"] = R',
            'step.moved[f"R_{l}"] = before',
        ),
        (
            "forgetting and learning swapped",
            "rules/error_broadcast.py",
            "self.forgetting * before + (1 - self.forgetting) * correlation",
            "(1 - self.forgetting) * before + self.forgetting * correlation",
        ),
        (
            "correlation accumulates",
            "rules/error_broadcast.py",
            "self.forgetting * before + (1 - self.forgetting) * correlation",
            "self.forgetting * before + correlation",
        ),
        (
            "correlation summed over the batch",
            "rules/error_broadcast.py",
            "(e / e.shape[0])",
            "e",
        ),
        (
            "pre-activations for activities",
            "rules/error_broadcast.py",
            "layer.h.flatten(1).T",
            "layer.z.flatten(1).T",
        ),
        ("sign flipped", "rules/error_broadcast.py", "signal = (e @", "signal = (-e @"),
        (
            "no derivative",
            "rules/error_broadcast.py",
            "step.through_elementwise(stage, layer.z, signal)",
            "signal",
        ),
        (
            "no derivative of the output",
            "rules/error_broadcast.py",
            "step.through_elementwise(stage, last.z, e.reshape(last.z.shape))",
            "e.reshape(last.z.shape)",
        ),
        (
            "the buffer written in place",
            "rules/error_broadcast.py",
            "R = self.forgetting * before + (1 - self.forgetting) * correlation",
            "R = before.mul_(self.forgetting).add_((1 - self.forgetting) * correlation)",
        ),
    ],
    "local-errors": [
        (
            "no derivative",
            "network/step.py",
            "signal * derivative(part.module, a)",
            "signal",
        ),
        ("sign flipped", "rules/local_errors.py", "(e_l @ M)", "(-e_l @ M)"),
        (
            "the output's error in each layer",
            "rules/local_errors.py",
            "e_l = rule.error(y.reshape(-1, *shape), target)",
            "e_l = rule.error(rule.predict(x), target)",
        ),
        (
            "goodness for its error",
            "rules/local_errors.py",
            "(e_l @ M)",
            "(y @ M)",
        ),
        (
            "head of another activity",
            "rules/local_errors.py",
            "head(rule, l, layer.a)",
            "head(rule, l, step.after_synapse(stage, 2 * layer.z))",
        ),
        (
            "signs for weights on the way back",
            "rules/local_errors.py",
            "(e_l @ M)",
            "(e_l @ M.sign())",
        ),
        (
            "one window only where they overlap",
            "network/local.py",
            "return nothing.scatter_add(2, where.flatten(2), signal.flatten(2)).reshape(a.shape)",
            "return nothing.scatter(2, where.flatten(2), signal.flatten(2)).reshape(a.shape)",
        ),
        (
            "average pooling not divided",
            "network/local.py",
            "signal.flatten(2) @ pooled.flatten(1).T",
            "signal.flatten(2) @ (pooled > 0).to(a.dtype).flatten(1).T",
        ),
        (
            "output layer by the target",
            "rules/local_errors.py",
            "step.update(stage, e.reshape",
            "step.update(stage, (e + 1).reshape",
        ),
    ],
    "mono-forward": [
        ("heads fixed", "rules/mono_forward.py", "learn=True", "learn=False"),
        (
            "heads' mean forgotten",
            "rules/local_errors.py",
            "e_l.T @ layer.a.flatten(1) / x.shape[0]",
            "e_l.T @ layer.a.flatten(1)",
        ),
        (
            "heads' sign flipped",
            "rules/local_errors.py",
            "e_l.T @ layer.a.flatten(1) / x.shape[0]",
            "-e_l.T @ layer.a.flatten(1) / x.shape[0]",
        ),
        (
            "heads learn from another activity",
            "rules/local_errors.py",
            "e_l.T @ layer.a.flatten(1) / x.shape[0]",
            "e_l.T @ step.after_synapse(stage, 2 * layer.z).flatten(1) / x.shape[0]",
        ),
        ("sign flipped", "rules/local_errors.py", "(e_l @ M)", "(-e_l @ M)"),
    ],
    "forward-forward": [
        (
            "negative pass raises goodness too",
            "rules/forward_forward.py",
            "torch.sigmoid(g_bad)",
            "-torch.sigmoid(g_bad)",
        ),
        (
            "positive pass forgotten",
            "rules/forward_forward.py",
            "updates[name] = update + away_from[name]",
            "updates[name] = away_from[name]",
        ),
        (
            "no normalisation between layers",
            "rules/forward_forward.py",
            "between=_normalised",
            "between=None",
        ),
        (
            "no normalisation of the input",
            "rules/forward_forward.py",
            "a_0 = _normalised(self._input(x, labels, step))",
            "a_0 = self._input(x, labels, step)",
        ),
        (
            "threshold with the wrong sign",
            "rules/forward_forward.py",
            "-torch.sigmoid(-g_good)",
            "-torch.sigmoid(g_good)",
        ),
        (
            "one threshold for all widths",
            "rules/forward_forward.py",
            "self.threshold * units",
            "self.threshold",
        ),
        (
            "right labels as wrong ones",
            "rules/forward_forward.py",
            "(target + 1 + step.of_these(step.below(0, step.of_all((n,)), k - 1))) % k",
            "target",
        ),
        (
            "right labels among the likely ones",
            "rules/forward_forward.py",
            "noisy.masked_fill(self._shows(target), -torch.inf).argmax(1)",
            "noisy.argmax(1)",
        ),
        (
            "the likeliest label always",
            "rules/forward_forward.py",
            "y - (-torch.log1p(-drawn)).log()",
            "y",
        ),
        (
            "labels by the place in a share",
            "rules/forward_forward.py",
            "step.of_these(step.uniform(0, step.of_all((n, k)), y.dtype))",
            "step.uniform(0, (n, k), y.dtype)",
        ),
        (
            "the unlikely labels",
            "rules/forward_forward.py",
            "noisy = y - (",
            "noisy = -y - (",
        ),
        (
            "label as long as it is, whatever the sample",
            "rules/forward_forward.py",
            "self.label_scale * rest.square().sum(1, keepdim=True).sqrt()",
            "self.label_scale * torch.ones_like(rest[:, :1])",
        ),
        (
            "neutral label of the length of all",
            "rules/forward_forward.py",
            "x.new_full((k,), 1 / k)",
            "x.new_ones(k)",
        ),
        (
            "readout sees a label",
            "rules/forward_forward.py",
            "hidden = self._hidden(x, None, step)",
            "hidden = self._hidden(x, x[:, 0].long() * 0, step)",
        ),
        (
            "factor of the square forgotten",
            "rules/forward_forward.py",
            "slope * (2 / units)",
            "slope * (1 / units)",
        ),
        (
            "no derivative",
            "rules/forward_forward.py",
            "step.through_elementwise(stage, layer.z, slope * (2 / units) * layer.h)",
            "slope * (2 / units) * layer.h",
        ),
        (
            "readout sees more than length one",
            "rules/forward_forward.py",
            "_normalised(a) / math.sqrt(a[0].numel())",
            "_normalised(a)",
        ),
    ],
    "sign-pepita": [
        ("sign forgotten", "rules/sign_pepita.py", "e.sign()", "e"),
        (
            "signs for errors at the output",
            "rules/sign_pepita.py",
            "post = e.reshape",
            "post = e.sign().reshape",
        ),
        ("hidden sign flipped", "rules/sign_pepita.py", "first.h - second.h", "second.h - first.h"),
        (
            "clean presynaptic activity",
            "rules/sign_pepita.py",
            "second.pre",
            "first.pre",
        ),
        ("sign option ignored", "rules/sign_pepita.py", "self.F, self.sign)", "self.F, 1)"),
    ],
    "hebbian-pepita": [
        (
            "halves swapped",
            "rules/hebbian_pepita.py",
            "against, towards = first.h, second.h",
            "against, towards = second.h, first.h",
        ),
        (
            "halves added",
            "rules/hebbian_pepita.py",
            "less=(towards,",
            "less=(-towards,",
        ),
        (
            "output for prediction",
            "rules/hebbian_pepita.py",
            "y = losses.prediction(self.loss, output)",
            "y = output",
        ),
        (
            "modulated activity in both",
            "rules/hebbian_pepita.py",
            "first.pre, less",
            "second.pre, less",
        ),
        ("target in both", "rules/hebbian_pepita.py", "= y.reshape", "= t.reshape"),
    ],
    "time-local-pepita": [
        (
            "weights not changed in between",
            "rules/time_local_pepita.py",
            "weights | changed",
            "weights",
        ),
        (
            "changed the wrong way",
            "rules/time_local_pepita.py",
            "weights[n] - self.learning_rate",
            "weights[n] + self.learning_rate",
        ),
        (
            "second half only",
            "rules/time_local_pepita.py",
            "updates[name] - half",
            "-half",
        ),
        (
            "halves added",
            "rules/time_local_pepita.py",
            "updates[name] - half",
            "updates[name] + half",
        ),
        ("sign option ignored", "rules/time_local_pepita.py", "self.F, self.sign)", "self.F, 1)"),
    ],
    "adaptive-feedback-alignment": [
        (
            "sign flipped",
            "rules/adaptive_feedback_alignment.py",
            "else -h_tangent",
            "else h_tangent",
        ),
        (
            "tangent grows",
            "rules/adaptive_feedback_alignment.py",
            "else -h_tangent",
            "else -h_tangent * 2 ** (stage.l - 1)",
        ),
        (
            "sign option ignored",
            "rules/adaptive_feedback_alignment.py",
            "self.F, self.sign)",
            "self.F, 1)",
        ),
        (
            "bias in the tangent",
            "network/step.py",
            "change = stage.weigh(tangent)",
            "change = stage.weigh(tangent, None, stage.synapse.bias)",
        ),
        (
            "no derivative",
            "network/step.py",
            "return derivative(part.module, a) * change",
            "return change",
        ),
    ],
    "foton": [
        ("sign flipped", "rules/foton.py", "sign=-1", "sign=1"),
        ("hidden sign flipped", "rules/foton.py", "first.h - second.h", "second.h - first.h"),
        (
            "modulated presynaptic activity",
            "rules/foton.py",
            "modulated = list(step.activities(a_0_err))",
            "modulated = list(step.activities(a_0_err)); "
            "clean = [c._replace(pre=m.pre) for c, m in zip(clean, modulated, strict=True)]",
        ),
        (
            "output layer like a hidden one",
            "rules/foton.py",
            "posts[-1] = e.reshape(clean[-1].z.shape)",
            "pass",
        ),
        (
            "F twice as long",
            "rules/foton.py",
            "return signal.flatten(1).T",
            "return 2 * signal.flatten(1).T",
        ),
        ("temperature forgotten", "rules/foton.py", "self.temperature * output", "output"),
        ("half forgotten", "rules/foton.py", "/ (2 * bound)", "/ bound"),
        ("away from orthogonal", "rules/foton.py", "found[name] + bjorck", "found[name] - bjorck"),
        (
            "learning rate forgotten",
            "rules/foton.py",
            "bjorck(stage.synapse) / self.learning_rate",
            "bjorck(stage.synapse)",
        ),
        ("squares of the gram", "rules/foton.py", "gram @ W - W", "gram @ gram @ W - W"),
        (
            "groups as one",
            "rules/foton.py",
            "groups = 1 if isinstance(synapse, nn.Linear) else synapse.groups",
            "groups = 1",
        ),
        (
            "sums of windows",
            "network/transposed.py",
            "pooled / pooled.sum(0) if",
            "pooled if",
        ),
        (
            "images mirrored",
            "network/transposed.py",
            "padding, synapse.dilation, synapse.groups)",
            "padding, synapse.dilation, synapse.groups); signal = signal.flip(-1)",
        ),
    ],
    "node-perturbation": [
        (
            "noise by the place in a share",
            "rules/node_perturbation.py",
            "step.of_these(xi_l) for",
            "xi_l[: len(y)] for",
        ),
        ("sign flipped", "rules/node_perturbation.py", "(noisy - y)", "(y - noisy)"),
        (
            "sum over draws",
            "rules/node_perturbation.py",
            "/ (self.sigma * self.samples)",
            "/ self.sigma",
        ),
        (
            "not divided by sigma",
            "rules/node_perturbation.py",
            "/ (self.sigma * self.samples)",
            "/ self.samples",
        ),
        (
            "noise of size one",
            "rules/node_perturbation.py",
            "[self.sigma * xi_l for",
            "[xi_l for",
        ),
        (
            "noise of one layer forgotten by the next",
            "rules/node_perturbation.py",
            "[self.sigma * xi_l for xi_l in xi])",
            "[self.sigma * xi_l * (l == 0) for l, xi_l in enumerate(xi)])",
        ),
        ("the clean error only", "rules/node_perturbation.py", "(e + e_noisy)", "(e + e)"),
        (
            "the first draw only",
            "rules/node_perturbation.py",
            "step.normal(draw,",
            "step.normal(0,",
        ),
        (
            "one loss for the batch",
            "rules/node_perturbation.py",
            ".sum(1) / 2",
            ".sum(1).mean(0, keepdim=True).expand(len(y)) / 2",
        ),
    ],
    "weight-perturbation": [
        (
            "sign flipped",
            "rules/weight_perturbation.py",
            "update + slope * psi[name]",
            "update - slope * psi[name]",
        ),
        (
            "sum over draws",
            "rules/weight_perturbation.py",
            "/ (self.sigma * self.samples)",
            "/ self.sigma",
        ),
        ("half forgotten", "rules/weight_perturbation.py", "*up).mean() / 2", "*up).mean()"),
        (
            "biases without noise",
            "rules/weight_perturbation.py",
            "p + sigma * psi[name] for",
            "p + sigma * psi[name] * (p.dim() > 1) for",
        ),
        ("sum over samples", "rules/weight_perturbation.py", "e, *up).mean()", "e, *up).sum()"),
        (
            "one side only",
            "rules/weight_perturbation.py",
            "noisy(-self.sigma, psi)",
            "(y, e)",
        ),
    ],
    "mem-pepita": [
        ("hidden sign flipped", "rules/mem_pepita.py", "first.h - second.h", "second.h - first.h"),
        (
            "presynaptic option turned round",
            "rules/mem_pepita.py",
            'self.presynaptic == "modulated"',
            'self.presynaptic == "clean"',
        ),
        (
            "presynaptic option ignored",
            "rules/mem_pepita.py",
            'second.pre if self.presynaptic == "modulated" else first.pre',
            "second.pre",
        ),
        (
            "error not added",
            "rules/mem_pepita.py",
            "step.activities(a_0_err, keep_z=False)",
            "step.activities(a_0)",
        ),
        ("sign option ignored", "rules/mem_pepita.py", "self.F, self.sign)", "self.F, 1)"),
        (
            "output layer like a hidden one",
            "rules/mem_pepita.py",
            "e.reshape(first.z.shape) if stage.is_readout else ",
            "",
        ),
    ],
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the package with its bytecode, so that a mutant compiles only what it changes."""
    whole = tmp_path_factory.mktemp("whole") / "forwardly"
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(Path(fw.__file__).parent, whole, ignore=ignore)
    assert compileall.compile_dir(whole, quiet=1)
    return whole


class _Mutant(SourceFileLoader):
    """A module with one piece of its source replaced."""

    def __init__(self, name: str, path: Path, piece: str, replacement: str) -> None:
        super().__init__(name, str(path))
        text = path.read_text("utf-8")
        assert text.count(piece) == 1, f"{piece!r} stands {text.count(piece)} times in {path}"
        self.text = text.replace(piece, replacement)

    def get_code(self, fullname: str) -> CodeType:  # noqa: ARG002
        return compile(self.text, self.path, "exec", dont_inherit=True)


class _Finder(MetaPathFinder):
    """Finds the mutant, and all else of ours where it lies."""

    def __init__(self, mutant: _Mutant) -> None:
        self.mutant = mutant

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,
        target: ModuleType | None = None,  # noqa: ARG002
    ) -> ModuleSpec | None:
        if fullname == self.mutant.name:
            return spec_from_file_location(fullname, self.mutant.path, loader=self.mutant)
        return PathFinder.find_spec(fullname, path) if _is_ours(fullname) else None


@pytest.fixture
def mutate(
    whole: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[str, str, str], None]]:
    """A function that imports rules and laws with one piece of one file replaced."""
    ours = {name: module for name, module in sys.modules.items() if _is_ours(name)}

    def mutate(file: str, piece: str, replacement: str) -> None:
        name = ".".join(["forwardly", *Path(file).with_suffix("").parts])
        finder = _Finder(_Mutant(name, whole / file, piece, replacement))
        # Before the import hook that checks annotations, which takes ten times as long.
        monkeypatch.setattr(sys, "meta_path", [finder, *sys.meta_path])
        for each in ours:
            del sys.modules[each]
        # The package without the rest of what it would import, which is most.
        package = ModuleType("forwardly")
        package.__path__ = [str(whole)]
        sys.modules["forwardly"] = package
        importlib.import_module("forwardly.testing")
        importlib.import_module(name)
        assert sys.modules[name].__loader__ is finder.mutant
        assert Path(str(sys.modules["forwardly.rule"].__file__)) == whole / "rule.py"

    yield mutate
    for name in [name for name in sys.modules if _is_ours(name)]:
        del sys.modules[name]
    sys.modules.update(ours)


def _is_ours(name: str) -> bool:
    return name.split(".")[0] == "forwardly"


def _checks(name: str) -> Iterator[Callable[[], None]]:
    """What test_laws.py, test_pepita.py and test_relatives.py hold a rule to, of the mutant."""
    kit = importlib.import_module("forwardly.testing")
    rule = importlib.import_module("forwardly.rules").RULES[name]
    for case in NETWORKS:
        if name == "pepita":
            for options in OPTIONS:
                yield partial(equals_the_reference, rule, case, options)
        elif name in REFERENCES and case.name != "norms":
            yield partial(REFERENCES[name][1], rule, case)
        elif name == "backprop" and case in DENSE:
            yield partial(backprop_is_the_chain_rule, rule, case)
        elif name == "readout-only":
            yield partial(readout_only_is_the_delta_rule, rule, case)
    factory = FACTORIES[name]
    options = factory.keywords if isinstance(factory, partial) else {}
    make = partial(rule, **options)
    for law in kit.LAWS:
        if law.__name__ not in EXEMPT.get(name, set()):
            for case in kit.cases_for(make):
                yield partial(law, make, case)


def _rejected(name: str) -> bool:
    for check in _checks(name):
        try:
            check()
        except AssertionError:  # and no other: a mutant that crashes shows nothing
            return True
    return False


def test_every_rule_has_mutants() -> None:
    assert MUTANTS.keys() == fw.RULES.keys()
    for mutants in MUTANTS.values():
        assert len({what for what, *_ in mutants}) == len(mutants) >= 4


@pytest.mark.unchecked
@pytest.mark.parametrize(
    ("name", "file", "piece", "replacement"),
    [
        pytest.param(name, *rest, id=f"{name}-{what}")
        for name, mutants in MUTANTS.items()
        for what, *rest in mutants
    ],
)
def test_wrong_rule_is_rejected(
    mutate: Callable[[str, str, str], None],
    name: str,
    file: str,
    piece: str,
    replacement: str,
) -> None:
    mutate(file, piece, replacement)
    assert _rejected(name)


@pytest.mark.unchecked
@pytest.mark.parametrize("name", ["pepita", "feedback-alignment"])
def test_a_right_rule_is_not_rejected(mutate: Callable[[str, str, str], None], name: str) -> None:
    same = "first.h - second.h"
    mutate("rules/pepita.py", same, same)
    assert not _rejected(name)
