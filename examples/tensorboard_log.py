"""What each epoch measured, and how updates align with the gradient, to TensorBoard.

``tensorboard --logdir runs`` shows it afterwards.
"""

import torch
from torch import nn
from torch.utils.tensorboard import SummaryWriter

import forwardly as fw

torch.manual_seed(0)
digits = fw.data.load("digits")
model = nn.Sequential(nn.Flatten(), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))
rule = fw.PEPITA(model, nn.CrossEntropyLoss())
writer = SummaryWriter()  # in runs/


def alignment(rule: fw.Rule, x: torch.Tensor, target: torch.Tensor) -> dict[str, float]:
    """The cosine between PEPITA's update of the first layer and the gradient."""
    return {"alignment": fw.metrics.update_alignment(rule, x, target)["1.weight"]}


def log(row: dict[str, float]) -> None:
    epoch = int(row["epoch"])
    for name, value in row.items():
        writer.add_scalar(name, value, epoch)
    writer.add_histogram("weights of the first layer", model[1].weight, epoch)


optimizer = fw.LocalSGD(rule, 0.1, 0.9)
run = fw.fit(rule, digits, optimizer, epochs=5, measures=[alignment], on_epoch=log)
writer.close()
print(f"validation accuracy: {run.rows[-1]['validation_accuracy']:.1%}, in {writer.log_dir}")
