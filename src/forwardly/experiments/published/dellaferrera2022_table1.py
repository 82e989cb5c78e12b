"""Table 1 of Dellaferrera & Kreiman, "Error-driven Input Modulation", ICML 2022, arXiv 2201.11665.

Test accuracy (%) of backpropagation, feedback alignment, DRTP and PEPITA on MNIST, CIFAR-10 and
CIFAR-100, fully connected (one hidden layer of 1024) and convolutional. Direct feedback alignment
and the control, readout-only, are added under the same settings.

Settings are those of the authors' code, as far as it has them. Fully connected: ReLU, no biases,
He-uniform weights, momentum 0.9, batches of 64, dropout 0.1, learning rate 0.1 (MNIST) or 0.01,
divided by ten after epochs 60 and 90 of 100. Convolutional: 32 kernels of 5 × 5, ReLU, max pooling,
a linear readout, He-uniform weights, batches of 50, learning rate 0.01 divided by ten after epochs
10, 30 and 60.

Deviations
    2,000 training images are put aside for validation, so 58,000 (48,000) are learned. PEPITA's
    output layer learns from the error of the clean pass, as in the paper, in the row "pepita", and
    from that of the modulated pass, as in the authors' NumPy code from which the published fully
    connected results come, in the row "pepita-second". The authors' convolutional code divides the
    convolution's update by the number of output positions and once more by the batch size; the
    recipe has that as a factor on its learning rate, with the row "pepita-positions" for the first
    division alone. The row "backprop-49900" puts 100 images aside, "backprop-25-epochs" ends early.
    Settings of feedback alignment and DRTP in their code are not known to us: with the rates of
    PEPITA the former's loss grows, so these, and tanh for DRTP, are chosen on validation images
    after a few epochs. The code of DRTP's authors divides the readout's updates by the size of the
    batch, and no others: the row "drtp-sums" has matrices B a hundred times as long for batches of
    100, and standardised images.
"""

from __future__ import annotations

from dataclasses import replace

from forwardly.experiments.experiment import Cell, Experiment, Published
from forwardly.experiments.recipe import Recipe

_WHERE = "Table 1"
_SEEDS = 10
# columns: MNIST, CIFAR-10, CIFAR-100; fully connected, then convolutional
_PUBLISHED = {
    "backprop": (98.63, 0.03, 55.27, 0.32, 27.58, 0.09, 98.86, 0.04, 64.99, 0.32, 34.20, 0.20),
    "feedback-alignment": (
        *(98.42, 0.07, 53.82, 0.24, 24.61, 0.28),
        *(98.50, 0.06, 57.51, 0.57, 27.15, 0.53),
    ),
    "drtp": (95.10, 0.10, 45.89, 0.16, 18.32, 0.18, 97.32, 0.25, 50.53, 0.81, 20.14, 0.68),
    "pepita": (98.01, 0.09, 52.57, 0.36, 24.91, 0.22, 98.29, 0.13, 56.33, 1.35, 27.56, 0.60),
}
_OWN_RATES = {  # CIFAR-10 and -100, MNIST
    "feedback-alignment": (0.001, 0.03),
    "direct-feedback-alignment": (0.001, 0.03),
    "drtp": (0.001, 0.01),
}
_DATA = ("mnist", "cifar10", "cifar100")
_POSITIONS = {"mnist": 24 * 24, "cifar10": 28 * 28, "cifar100": 28 * 28}  # of the convolution
_ROWS = (
    *("backprop", "feedback-alignment", "direct-feedback-alignment", "drtp"),
    *("pepita", "pepita-second", "readout-only"),
)


def _published(rule: str, column: int) -> Published | None:
    if rule not in _PUBLISHED:
        return None
    mean, sd = _PUBLISHED[rule][2 * column : 2 * column + 2]
    return Published(mean, sd, _SEEDS, _WHERE)


def _fully_connected(column: int) -> dict[str, Cell]:
    name = _DATA[column]
    rate = 0.1 if name == "mnist" else 0.01
    cells: dict[str, Cell] = {}
    for rule in _ROWS:
        options = {"output_error": "second"} if rule == "pepita-second" else {}
        recipe = Recipe(
            rule.removesuffix("-second"),
            name,
            options,
            dropout=0.1,
            learning_rate=rate,
            epochs=100,
            milestones=(60, 90),
        )
        note = ""
        if options:
            note = "the output layer learns from the modulated pass's error"
        if rule in _OWN_RATES:
            recipe = replace(recipe, learning_rate=_OWN_RATES[rule][name == "mnist"])
            note = "learning rate chosen by us"
        if rule == "drtp":
            recipe = replace(recipe, activation="tanh")
            note = "tanh and learning rate chosen by us"
        cells[f"fc-{name}/{rule}"] = Cell(recipe, _published(recipe.rule, column), note)
    if name == "cifar10":
        recipe = replace(
            cells[f"fc-{name}/drtp"].recipe,
            options={"backward": 100.0},
            learning_rate=0.0005,
            batch=100,
            preprocessing="standardise",
        )
        note = "hidden updates of a batch added up, standardised images"
        cells[f"fc-{name}/drtp-sums"] = Cell(recipe, _published("drtp", column), note)
    return cells


def _convolutional(column: int) -> dict[str, Cell]:
    name = _DATA[column]
    cells: dict[str, Cell] = {}
    for rule in _ROWS:
        if rule == "pepita-second":  # their convolutional code has the error of the clean pass
            continue
        recipe = Recipe(
            rule,
            name,
            model="conv",
            hidden=(32,),
            learning_rate=0.01,
            batch=50,
            epochs=100,
            milestones=(10, 30, 60),
        )
        note = ""
        if rule == "pepita":
            recipe = replace(recipe, conv_rate=1 / (_POSITIONS[name] * recipe.batch))
            note = "the convolution's update divided as in the authors' code"
        if rule == "drtp":
            recipe = replace(recipe, activation="tanh", learning_rate=0.001)
            note = "tanh and learning rate chosen by us"
        cells[f"conv-{name}/{rule}"] = Cell(recipe, _published(rule, 3 + column), note)
    others = _with_torchs_weights(name, cells)
    if name == "cifar10":
        recipe = cells[f"conv-{name}/backprop"].recipe
        others |= {
            f"conv-{name}/backprop-49900": Cell(
                replace(recipe, validation=100), note="learns all images but 100"
            ),
            f"conv-{name}/backprop-25-epochs": Cell(
                replace(recipe, epochs=25), note="ends where it was best on validation images"
            ),
        }
    return cells | others


def _with_torchs_weights(name: str, cells: dict[str, Cell]) -> dict[str, Cell]:
    others: dict[str, Cell] = {}
    for rule in ("backprop", "pepita", "readout-only"):
        recipe = replace(cells[f"conv-{name}/{rule}"].recipe, initial="torch")
        others[f"conv-{name}/{rule}-torch-weights"] = Cell(recipe, note="torch's initial weights")
    recipe = others[f"conv-{name}/pepita-torch-weights"].recipe
    others[f"conv-{name}/pepita-positions"] = Cell(
        replace(recipe, conv_rate=1 / _POSITIONS[name]),
        note="torch's initial weights, the convolution's update averaged over positions",
    )
    return others


EXPERIMENT = Experiment(
    name="dellaferrera2022_table1",
    title="PEPITA, Table 1: test accuracy of one hidden layer and of one convolution",
    url="https://arxiv.org/abs/2201.11665",
    cells={
        name: cell
        for make in (_fully_connected, _convolutional)
        for column in range(3)
        for name, cell in make(column).items()
    },
)
