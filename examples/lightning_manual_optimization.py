"""A rule in Lightning, by manual optimization, as there is no loss to differentiate.

Versions 2.6.2 and 2.6.3 of lightning on PyPI were malware that ran on import (April 2026, advisory
GHSA-w37p-236h-pfx3). Install a version that you have checked, and pin it: constraints.txt has ours.
"""

import lightning
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import forwardly as fw


class Digits(lightning.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))
        self.rule = fw.PEPITA(model, nn.CrossEntropyLoss())  # a module: F is moved and saved too

    def configure_optimizers(self):
        return torch.optim.SGD(self.rule.model.parameters(), lr=0.1, momentum=0.9)

    def training_step(self, batch):
        optimizer = self.optimizers()
        optimizer.zero_grad()
        credit = self.rule.accumulate(*batch)  # where self.manual_backward(loss) would stand
        optimizer.step()
        self.log("loss", credit.loss.item(), prog_bar=True)

    def test_step(self, batch):
        x, target = batch
        right = self.rule.predict(x).argmax(1) == target
        self.log("accuracy", right.float().mean())


lightning.seed_everything(0)
digits = fw.data.load("digits")
train, test = (
    DataLoader(TensorDataset(*part.batch(slice(None), torch.float32)), 32, shuffle=shuffle)
    for part, shuffle in ((digits.train, True), (digits.test, False))
)
module = Digits()
trainer = lightning.Trainer(
    max_epochs=5, accelerator="cpu", logger=False, enable_checkpointing=False
)
trainer.fit(module, train)
(result,) = trainer.test(module, test, verbose=False)
print(f"test accuracy: {result['accuracy']:.1%}")
