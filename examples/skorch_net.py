"""A rule in skorch: a ``NeuralNetClassifier`` whose training step calls ``rule.accumulate``.

Without skorch, ``fw.sklearn.ForwardlyClassifier`` is an estimator of scikit-learn as well.
"""

import torch
from skorch import NeuralNetClassifier
from torch import nn

import forwardly as fw


class RuleNet(NeuralNetClassifier):
    """Learns by PEPITA; everything else is skorch's."""

    def initialize_module(self):
        super().initialize_module()
        self.rule_ = fw.PEPITA(self.module_, nn.CrossEntropyLoss())
        return self

    def train_step_single(self, batch, **fit_params):
        self._set_training(True)
        credit = self.rule_.accumulate(*batch)  # skorch's own would call loss.backward()
        return {"loss": credit.loss, "y_pred": credit.output}


torch.manual_seed(0)
digits = fw.data.load("digits")
x, target = digits.train.batch(slice(None), torch.float32)
net = RuleNet(
    nn.Sequential(nn.Flatten(), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10)),
    criterion=nn.CrossEntropyLoss,
    optimizer=torch.optim.SGD,
    optimizer__momentum=0.9,
    lr=0.1,
    batch_size=32,
    max_epochs=5,
    iterator_train__shuffle=True,
)
net.fit(x, target)

x, target = digits.test.batch(slice(None), torch.float32)
print(f"test accuracy: {net.score(x, target.numpy()):.1%}")
