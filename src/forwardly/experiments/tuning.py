"""A search for settings by Optuna, whose trials are runs of an ``Engine``.

Trials are judged by validation samples alone; the test samples are not looked at. One that lies
behind is given up after an epoch, by Optuna's median of the others' curves. The study is the asking
command's; workers do not see it, so any engine will do.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import socket
import time
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, fields
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from forwardly.errors import UsageError, in_a_line, missing
from forwardly.experiments.jobs import Ended, Engine, Job, Restarted, State
from forwardly.experiments.recipe import Recipe
from forwardly.experiments.records import Record
from forwardly.experiments.search import Between, Range, Value, with_values

_STARTUP_TRIALS = 5
"""Trials that are run to their ends before any is given up."""
_TRIES, _SECONDS_BETWEEN_TRIES = 4, 0.5
_MADE_MEANWHILE = "IntegrityError", "ProgrammingError"
"""What SQLAlchemy raises where another command makes the same tables at the same time."""


@dataclass(frozen=True)
class Search:
    """What is searched, and how long.

    Attributes:
        recipe: what is searched around.
        space: where, by the name of a setting.
        trials: how many in all, those of earlier commands counted.
        seed: of split, weights, feedback and order, and of the sampler.
        by_accuracy: whether the validation accuracy is made large; else its loss is made small.
        work: where trials keep their checkpoints.
        data_root: see ``Job``.
        threads: of a trial.
    """

    recipe: Recipe
    space: Mapping[str, Range]
    trials: int
    seed: int
    by_accuracy: bool
    work: Path
    data_root: Path | None
    threads: int


STATES = {"COMPLETE": "complete", "PRUNED": "given up", "FAIL": "diverged"}
"""How a trial ends, by Optuna's name, in words."""


class Trial(NamedTuple):
    """One that has ended.

    Attributes:
        number: of the study.
        values: what was tried.
        state: of ``STATES``.
        value: the validation accuracy or loss of its last epoch, if it came to that.
    """

    number: int
    values: Mapping[str, Value]
    state: str
    value: float | None


class Told(NamedTuple):
    """A trial of this command that has ended; ``job`` is its number among these."""

    job: int
    state: str


def optuna() -> Any:
    """The package.

    Raises:
        UsageError: if it is not installed.
    """
    try:
        return import_module("optuna")
    except ImportError as problem:
        raise missing("to tune", "optuna", "tune", problem) from None


def open_study(search: Search, storage: str, name: str) -> Any:
    """The study of that name, made if it is not there.

    Args:
        search: what it is for.
        storage: a file of Optuna's journal, or the URL of a database, ``postgresql://…``.
        name: of the study.

    Raises:
        UsageError: if it is of another search, or cannot be opened.
    """
    package = optuna()
    package.logging.set_verbosity(package.logging.ERROR)
    try:
        study = _opened(search, storage, name)
    except Exception as problem:  # of whatever package reaches the database
        raise UsageError(f"the study in {storage} cannot be opened: {in_a_line(problem)}") from None
    about = {"recipe": search.recipe.as_data(), "seed": search.seed, **search.recipe.own_model()}
    about["space"] = {name: str(where) for name, where in search.space.items()}
    about = json.loads(json.dumps(about))
    theirs = study.user_attrs.get("forwardly")
    if theirs is None:
        study.set_user_attr("forwardly", about)
    elif theirs != about:
        other = [key for key in about if about[key] != theirs.get(key)]
        raise UsageError(
            f"the study {name!r} in {storage} is of another search (other: {', '.join(other)}): "
            "name another --study, or give the same options"
        )
    return study


def _opened(search: Search, storage: str, name: str, tries: int = _TRIES) -> Any:
    package = optuna()
    if "://" in storage:
        try:
            kept = package.storages.RDBStorage(storage)
        except Exception as problem:
            if tries == 1 or type(problem).__name__ not in _MADE_MEANWHILE:
                raise
            time.sleep(_SECONDS_BETWEEN_TRIES)
            return _opened(search, storage, name, tries - 1)
    else:
        Path(storage).parent.mkdir(parents=True, exist_ok=True)
        kept = package.storages.JournalStorage(package.storages.journal.JournalFileBackend(storage))
    return package.create_study(
        storage=kept,
        study_name=name,
        direction="maximize" if search.by_accuracy else "minimize",
        pruner=package.pruners.MedianPruner(_STARTUP_TRIALS),
        load_if_exists=True,
    )


def tune(search: Search, study: Any, engine: Engine) -> Generator[State | Restarted | Told]:
    """Run trials until the study has as many as it should; yields what happens.

    Closing the generator, or Ctrl-C in it, ends all; the trials that were under way are begun again
    by the next command, from their checkpoints.

    Raises:
        UsageError: of the first trial that cannot be run.
    """
    _give_back(study)
    asked, jobs_of = list[Any](), list[Job]()
    given_up, last = set[int](), dict[int, int]()

    def jobs() -> Iterator[Job]:
        while _count(study) < search.trials:
            trial = study.ask()
            trial.set_user_attr("process", _process())
            # By its number: not the same again where a search goes on, or commands share it.
            study.sampler = optuna().samplers.TPESampler(seed=search.seed + trial.number)
            asked.append(trial)
            jobs_of.append(_job(search, study, trial))
            yield jobs_of[-1]

    with closing(engine.train(jobs(), given_up)) as news_of:
        for news in news_of:
            if isinstance(news, State):
                trial, epoch = asked[news.job], int(news.epoch)
                if news.accuracy is not None and epoch > last.get(news.job, 0):
                    last[news.job] = epoch
                    trial.report(news.accuracy, epoch)
                    if trial.should_prune():
                        given_up.add(news.job)
                yield news
            elif isinstance(news, Ended):
                state = _told(search, study, asked[news.job], news.result)
                shutil.rmtree(jobs_of[news.job].folder.parent, ignore_errors=True)
                yield Told(news.job, state)
            else:
                yield news


def _count(study: Any) -> int:
    """Trials that are under way or have ended; not those that are waiting to be begun again."""
    states = optuna().trial.TrialState
    return sum(
        trial.state != states.WAITING and not trial.user_attrs.get("lost")
        for trial in study.get_trials(deepcopy=False)
    )


def _process() -> str:
    return f"{socket.gethostname()} {os.getpid()}"


def _give_back(study: Any) -> None:
    """Trials of a command that was killed on this machine are to be run again."""
    states = optuna().trial.TrialState
    for trial in study.get_trials(deepcopy=False, states=(states.RUNNING,)):
        host, _, pid = trial.user_attrs.get("process", "").rpartition(" ")
        if host == socket.gethostname() and not _is_alive(int(pid)):
            study.enqueue_trial(trial.params)
            study._storage.set_trial_user_attr(trial._trial_id, "lost", True)
            study.tell(trial.number, state=states.FAIL)


def _is_alive(pid: int) -> bool:
    if os.name != "posix":  # where it cannot be asked for without killing it
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _job(search: Search, study: Any, trial: Any) -> Job:
    values = {name: _suggested(trial, name, where) for name, where in search.space.items()}
    recipe = with_values(search.recipe, values)
    # Named by what it is, not by its number: one that is begun again has another.
    return Job(
        *(study.study_name, recipe.sha256(), search.seed, recipe),
        *(search.work / "records", search.work, search.data_root, search.threads),
        tested=False,
    )


def _suggested(trial: Any, name: str, where: Range) -> Value:
    if isinstance(where, Between):
        return trial.suggest_float(name, where.low, where.high, log=where.log)
    return trial.suggest_categorical(name, where.values)


def _told(search: Search, study: Any, trial: Any, result: Record | str) -> str:
    """Tell the study how a trial ended; the name of its state."""
    states = optuna().trial.TrialState
    value, state = None, states.PRUNED
    if isinstance(result, Record):
        name = "validation_accuracy" if search.by_accuracy else "validation_loss"
        value = None if result.result["diverged"] else result.rows[-1].get(name)
        state = states.FAIL if value is None else states.COMPLETE
    study.tell(trial, value, state=state)
    return state.name


def ended(study: Any) -> list[Trial]:
    """The trials that have ended, by whatever command."""
    return [
        Trial(trial.number, trial.params, trial.state.name, trial.value)
        for trial in study.get_trials(deepcopy=False)
        if trial.state.is_finished() and not trial.user_attrs.get("lost")
    ]


def ranked(search: Search, trials: Iterable[Trial]) -> list[Trial]:
    """Those that are complete, the best first."""
    complete = [(trial.value, trial) for trial in trials if trial.state == "COMPLETE"]
    sign = -1 if search.by_accuracy else 1
    done = [(sign * value, trial.number, trial) for value, trial in complete if value is not None]
    return [trial for _, _, trial in sorted(done, key=lambda one: one[:2])]


def command_of(recipe: Recipe, seed: int) -> str:
    """The ``forwardly train`` line that repeats a recipe."""
    words = ["forwardly train", f"--rule {recipe.rule}", f"--data {shlex.quote(recipe.data)}"]
    defaults = Recipe(recipe.rule, recipe.data)
    for field in fields(Recipe):
        name, value = field.name, getattr(recipe, field.name)
        if name in ("rule", "data", "options", "mirroring") or value == getattr(defaults, name):
            continue
        option = f"--{name.replace('_', '-')}"
        if name == "preprocessing":
            words.append(f"--{value}")
        elif value is True:
            words.append(option)
        elif name in ("hidden", "milestones"):
            words.append(" ".join([option, *map(str, value)]))
        else:
            words.append(f"{option} {shlex.quote(str(value))}")
    if recipe.options:
        options = [shlex.quote(f"{name}={value}") for name, value in recipe.options.items()]
        words.append(" ".join(["--rule-options", *options]))
    return " ".join([*words, f"--seed {seed}"] if seed else words)
