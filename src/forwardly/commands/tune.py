"""``forwardly tune``: a search for settings."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import torch
from rich.progress import TaskID
from rich.table import Table

from forwardly.commands.console import INTERRUPTED, PlainConsole, bars
from forwardly.commands.engines import check_cluster, engine_of, threads_of
from forwardly.commands.recipes import RecipeOptions, completed
from forwardly.errors import UsageError
from forwardly.experiments import tuning
from forwardly.experiments.engines.cluster import Dask
from forwardly.experiments.jobs import State
from forwardly.experiments.recipe import Recipe, load_data
from forwardly.experiments.run_folder import check_places
from forwardly.experiments.search import space, text, with_values
from forwardly.experiments.settings import MOST_THREADS, at_least, require
from forwardly.experiments.tuning import Search, Told, Trial
from forwardly.models import own as own_models

_DEFAULTS = Recipe()
_SHOWN = 5


def tune(
    *,
    recipe: RecipeOptions = _DEFAULTS,
    hidden: tuple[int, ...] | None = None,
    centre: bool = False,
    standardise: bool = False,
    rule_options: tuple[str, ...] = (),
    search: tuple[str, ...] = (),
    trials: int = 50,
    study: str | None = None,
    jobs: int | None = None,
    cluster: str | None = None,
    seed: int = 0,
    data_root: Path | None = None,
    work: Path = Path("runs/tune"),
) -> int:
    """Search for the settings with which a rule does best on validation samples, by Optuna.

    Each trial is a run of forwardly train; the test samples are not looked at. A trial that lies
    behind the median of the others after an epoch is given up (of data with classes). The best is
    printed as the command that repeats it. A search that was stopped or killed goes on when the
    same command is given again; with more --trials one that has ended does.

    Parameters
    ----------
    hidden
        Sizes of the hidden layers, separated by spaces; for conv, its channels (default: 1024;
        conv: 32; resmlp: four of 256).
    centre
        Shift samples to means of 0, of each number or of each channel of images, by those of the
        training part.
    standardise
        Shift and scale samples to means of 0 and standard deviations of 1, in the same way.
    rule_options
        Options of the rule that are not searched over, as NAME=VALUE.
    search
        What is searched over, each NAME, NAME=LOW:HIGH, NAME=LOW:HIGH:log or NAME=A,B,C: settings
        such as learning_rate, momentum, weight_decay, dropout, batch, preprocessing, and options of
        the rule (default: learning_rate and the rule's options).
    trials
        How many in all, those of the study that is there counted.
    study
        Where it is kept: a file, which several commands on this machine may share, or the URL of a
        database, postgresql://…, which commands on several may; optuna-dashboard shows either
        (default: WORK/RULE-DATA.log).
    jobs
        Trials at a time (default: 2; of Slurm, its jobs: 10).
    cluster
        Where trials run, see forwardly reproduce.
    seed
        Of split, weights, feedback, order of samples, and of the search.
    data_root
        The folder that holds, or is to hold, the data sets (default: the variable FORWARDLY_DATA,
        else the user's cache).
    work
        The folder of the study and of checkpoints.
    """
    if cluster is not None:
        check_cluster(cluster, "cpu", jobs)
    jobs = (10 if cluster == "slurm" else 2) if jobs is None else jobs
    require(at_least(1), trials=trials, jobs=jobs)
    require(MOST_THREADS, jobs=jobs)
    require(at_least(0), seed=seed)
    elsewhere = cluster is not None and not cluster.startswith("local:")
    for what, is_own in (("data", recipe.of_own_data), ("model", recipe.of_own_model)):
        if elsewhere and is_own:
            raise UsageError(f"the file of your {what} is on this machine: leave --cluster out")
    recipe = completed(recipe, hidden, rule_options, centre=centre, standardise=standardise)
    if recipe.of_own_data:
        recipe = replace(recipe, data=str(Path(recipe.data).absolute()))
    if recipe.of_own_model:  # and is run once here, so that a mistake is told at once
        recipe = replace(recipe, model=own_models.absolute(recipe.model))
        own_models.function(recipe.model)
    ranges = space(recipe, search)
    check_places(work=work)
    console = PlainConsole()
    with console.status("reading samples") if recipe.of_own_data else nullcontext():
        dataset = load_data(recipe, seed, data_root, progress=True)
    about = Search(
        recipe,
        ranges,
        trials,
        seed,
        dataset.classes,
        work,
        data_root,
        threads_of(jobs, cluster),
    )
    name = f"{recipe.rule}-{Path(recipe.data).stem}"
    kept = tuning.open_study(about, study or str(work / f"{name}.log"), name)
    console.say("Searching " + ", ".join(f"{n} in {where}" for n, where in ranges.items()))
    with engine_of(cluster, torch.device("cpu"), jobs, console) as engine:
        if isinstance(engine, Dask):
            names = [] if recipe.of_own_data else [recipe.data]
            if absent := engine.absent(names, data_root):
                raise UsageError("\n".join(absent.values()))
        interrupted = _run(about, kept, engine, console)
    best = _show(about, kept, console)
    if best is not None:
        console.say("The best, as a run that leaves a model:")
        console.say(tuning.command_of(with_values(recipe, best.values), seed))
    return INTERRUPTED if interrupted else 0 if best is not None else 1


def _run(search: Search, study: object, engine: tuning.Engine, console: PlainConsole) -> bool:
    """Run trials under a bar for all and one for each under way; whether Ctrl-C ended it."""
    with bars(console, "{task.fields[state]}") as progress:
        whole = progress.add_task("trials", total=search.trials, state="")
        progress.update(whole, completed=len(tuning.ended(study)))
        tasks: dict[int, TaskID] = {}
        try:
            for news in tuning.tune(search, study, engine):
                if isinstance(news, State):
                    if news.job not in tasks:
                        tasks[news.job] = progress.add_task(
                            "a trial", total=search.recipe.epochs, state=""
                        )
                    state = (
                        "" if news.accuracy is None else f"validation {100 * news.accuracy:.2f} %"
                    )
                    progress.update(tasks[news.job], completed=news.epoch, state=state)
                elif isinstance(news, Told):
                    if news.job in tasks:
                        progress.remove_task(tasks.pop(news.job))
                    progress.update(whole, advance=1, state=_best_in_words(search, study))
                else:
                    console.say(f"A trial: {news.why}; it goes on from its checkpoint", "yellow")
        except KeyboardInterrupt:
            console.say("Stopped; the same command goes on.", style="yellow")
            return True
    return False


def _best_in_words(search: Search, study: object) -> str:
    best = tuning.ranked(search, tuning.ended(study))
    return f"best {_figure(search, best[0])}" if best else ""


def _figure(search: Search, trial: Trial) -> str:
    if trial.value is None:
        return "–"
    return f"{100 * trial.value:.2f} %" if search.by_accuracy else f"{trial.value:.4g}"


def _show(search: Search, study: object, console: PlainConsole) -> Trial | None:
    """A table of the best trials, and how many there are of each kind."""
    done = tuning.ended(study)
    best = tuning.ranked(search, done)
    table = Table()
    for heading in ("trial", *search.space, "validation"):
        table.add_column(heading)
    for trial in best[:_SHOWN]:
        values = (f"{v:.4g}" if isinstance(v, float) else text(v) for v in trial.values.values())
        table.add_row(str(trial.number), *values, _figure(search, trial))
    counts = {state: sum(trial.state == state for trial in done) for state in tuning.STATES}
    said = ", ".join(f"{count} {tuning.STATES[state]}" for state, count in counts.items() if count)
    console.say(f"Trials: {said or 'none has ended'}.")
    if best:
        console.table(table)
    return best[0] if best else None
