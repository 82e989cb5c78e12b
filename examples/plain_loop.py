"""A training loop of one's own: ``rule.accumulate`` stands where ``loss.backward()`` would.

Trains a small network on scikit-learn's digits by PEPITA, in a few seconds.
"""

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import forwardly as fw

torch.manual_seed(0)
digits = fw.data.load("digits")
x, target = digits.train.batch(slice(None), torch.float32)
loader = DataLoader(TensorDataset(x, target), batch_size=32, shuffle=True)

model = nn.Sequential(nn.Flatten(), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))
rule = fw.PEPITA(model, nn.CrossEntropyLoss())
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)

for epoch in range(1, 11):
    total = 0.0
    for x_batch, target_batch in loader:
        optimizer.zero_grad()
        credit = rule.accumulate(x_batch, target_batch)  # two forward passes, no backward pass
        optimizer.step()
        total += float(credit.loss) * len(x_batch)
    print(f"epoch {epoch:2}: training loss {total / len(x):.3f}")

accuracy = fw.evaluate(rule, digits.test)["accuracy"]
print(f"test accuracy: {accuracy:.1%}")
