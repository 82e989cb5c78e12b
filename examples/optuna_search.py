"""Optuna chooses PEPITA's learning rate and the scale of F, by validation accuracy.

Trials that lie behind after an epoch are ended there.
"""

import optuna
import torch
from torch import nn

import forwardly as fw

digits = fw.data.load("digits")


def train(trial: optuna.Trial) -> float:
    """The validation accuracy of five epochs."""
    rate = trial.suggest_float("learning rate", 1e-3, 1.0, log=True)
    scale = trial.suggest_float("scale of F", 0.01, 0.5, log=True)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    rule = fw.PEPITA(model, nn.CrossEntropyLoss(), projection=fw.feedback.uniform(scale))

    def report(row: dict[str, float]) -> None:
        trial.report(row["validation_accuracy"], int(row["epoch"]))
        if trial.should_prune():
            raise optuna.TrialPruned

    run = fw.fit(rule, digits, fw.LocalSGD(rule, rate, 0.9), epochs=5, on_epoch=report)
    return run.rows[-1]["validation_accuracy"]


optuna.logging.set_verbosity(optuna.logging.WARNING)
study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=0))
study.optimize(train, n_trials=12)
for trial in study.trials:
    settings = ", ".join(f"{name} {value:.3f}" for name, value in trial.params.items())
    print(f"{trial.number:2}  {trial.state.name.lower():8}  {trial.value or 0:.3f}  {settings}")
print(f"best validation accuracy: {study.best_value:.1%}, with {study.best_params}")
