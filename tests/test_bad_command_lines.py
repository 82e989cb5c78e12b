"""Wrong command lines: each is refused at once, in a line that names what was wrong.

A new one is a line in LINES: the command, and what the message must say. Options are found by
themselves: every one of every command gets no value, and all that is wrong for its type.
"""

from __future__ import annotations

import os
import shlex
import socket
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import CompletedProcess
from typing import NamedTuple

import numpy as np
import pytest

from forwardly.cli import app
from forwardly.commands.arguments import kinds
from test_malformed_files import ordinary_user

pytestmark = pytest.mark.unchecked  # whole commands

Command = Callable[..., CompletedProcess[str]]

LONG = "a" * 300
HUGE = str(10**30)

LINES = rf"""
# which command
nope                                             | unknown command "nope"; the commands are teacher-student, train
''                                               | unknown command ""
--nope                                           | unknown command "--nope"
-x                                               | unknown command "-x"
Train                                            | unknown command "Train"
train.py                                         | unknown command "train.py"
[bold]train[/bold]                               | unknown command "[bold]train[/bold]"
\x1b[31mtrain                                    | unknown command "\x1b[31mtrain"
\udcff                                           | unknown command "\udcff"
a\0b                                             | zero byte; given "a\x00b"

# what belongs to no option
teacher-student stray                            | "stray" belongs to no option; see forwardly teacher-student --help
train stray                                      | "stray" belongs to no option; see forwardly train --help
train ''                                         | "" belongs to no option
train -- stray                                   | "stray" belongs to no option
train --resume true                              | "true" belongs to no option
train --data-parallel some                       | Invalid value "some" for --data-parallel. Choose from: "exact"
train --data-parallel                            | (RANK is not set): begin them by torchrun
compare stray                                    | "stray" belongs to no option
tune stray                                       | "stray" belongs to no option
audit pepita                                     | "pepita" belongs to no option
bench fc-mnist                                   | "fc-mnist" belongs to no option
rules nope                                       | nope
reproduce bfloat16 stray                         | "stray" belongs to no option

# unknown options
teacher-student --epoch 5                        | Unknown option: --epoch. Did you mean --epochs? The options are --rules
train --learning-rte 1                           | Unknown option: --learning-rte. Did you mean --learning-rate?
train --no-epochs                                | Unknown option: --no-epochs
train --no-hidden                                | Unknown option: --no-hidden
train --empty-hidden                             | Unknown option: --empty-hidden
train --no-out                                   | Unknown option: --no-out
train --options 3                                | Unknown option: --options
train --recipe 3                                 | Unknown option: --recipe
train --recipe.epochs 3                          | Unknown option: --recipe.epochs
train -e 3                                       | Unknown option: -e
train --[red] 3                                  | Unknown option: --[red]
train --\udcff 3                                 | Unknown option: --\udcff
teacher-student --settings.epochs 3              | Unknown option: --settings.epochs
teacher-student --inputs 3                       | Unknown option: --inputs
compare --batches 3                              | Unknown option: --batches. Did you mean --batch?
bench --case fc-mnist                            | Unknown option: --case. Did you mean --cases?
audit --rule pepita                              | Unknown option: --rule. Did you mean --rules?
report --records records                         | Unknown option: --records
rules --nope                                     | Unknown option: --nope
cite --names pepita                              | Unknown option: --names
reproduce --cell x                               | Unknown option: --cell. Did you mean --cells?

# an option twice
train --epochs 2 --epochs 3                      | --epochs specified multiple times
train --out a --out b                            | --out specified multiple times
teacher-student --dtype float32 --dtype float64  | --dtype specified multiple times
report --out a --out b                           | --out specified multiple times

# words that are not among those that can be
train --rule pepito                              | unknown rule 'pepito'; the known rules are
train --rule ''                                  | unknown rule ''
train --rule pepita,backprop                     | unknown rule 'pepita,backprop'
train --rule [bold]                              | unknown rule '[bold]'
train --rule a\nb                                | unknown rule 'a\nb'
train --rule \u202egnp                           | unknown rule '\u202egnp'
train --data minst                               | data must be one of
train --data ''                                  | data must be one of
train --model cnn                                | model must be one of mlp, conv, resmlp, resnet8, resnet20, vit, vit8; or
train --activation gelu                          | activation must be one of
train --initial zero                             | initial must be one of
train --normalise none                           | normalise must be one of sample, batch; given 'none'
train --precision half                           | Choose from: "float32", "float64", "bf16"
train --measure speed                            | cannot measure 'speed'; what can be measured is
train --measure ''                               | cannot measure ''
train --measure norms none                       | cannot measure 'none'
train --resume=maybe                             | "maybe"
teacher-student --rules hebb                     | unknown rule 'hebb'
teacher-student --rules pepita hebb              | unknown rule 'hebb'
teacher-student --rules pepita pepita            | a rule is named twice: pepita, pepita
teacher-student --rules forward-forward          | forward-forward learns classes
teacher-student --dtype half                     | Choose from: "float64", "float32"
teacher-student --engine steam                   | "steam"
train --data digits --mirror 2                   | mirror must be
train --data digits --rule drtp --mirror 0.1     | DRTP cannot be mirrored from end to end, as it has no F
compare --rules pepito                           | unknown rule 'pepito'
compare --rules pepita pepita                    | a rule is named twice
compare --rules pepita:presynaptic=clear         | presynaptic must be modulated or clean
compare --activation gelu                        | "gelu"
audit --rules pepito                             | unknown rule 'pepito'
audit --rules pepita pepita                      | a rule is named twice
audit --model cnn                                | "cnn"
bench --cases nope                               | unknown case 'nope'; the cases are
bench --cases ''                                 | unknown case ''
bench --quick=2                                  | "2"
bench --no-quick --cases nope                    | unknown case 'nope'
bench --device cuda:99                           | there is no device 'cuda:99'
bench --device gpu                               | a device is cpu, cuda, cuda:1
bench --device meta                              | a device is cpu, cuda, cuda:1
bench --check                                    | check holds a GPU to the processor
cite                                             | no rule given; the known rules are
cite nope                                        | unknown rule 'nope'
cite pepita nope                                 | unknown rule 'nope'
cite ''                                          | unknown rule ''
cite a\udcffb                                    | unknown rule 'a\udcffb'
cite -- --x                                      | unknown rule '--x'
reproduce nope                                   | unknown experiment 'nope'
reproduce ../records                             | unknown experiment '../records'
reproduce bfloat16 --cells nope                  | no cell of bfloat16 is called 'nope'; there are
reproduce bfloat16 --cells ''                    | no cell of bfloat16 is called ''
reproduce bfloat16 --cells [                     | no cell of bfloat16 is called '['
reproduce bfloat16 --cells fc-mnist/bf16 x       | no cell of bfloat16 is called 'x'

# far too much, or twice, or of nothing
train --learning-rate 1e39                       | learning_rate must be at least 0 and at most 1e+30
train --momentum 1e39                            | momentum must be at least 0 and at most 1e+30
train --epochs 9223372036854775807               | epochs must be at most 1,000,000,000
teacher-student --epochs 9223372036854775807     | epochs must be at most 1,000,000,000
compare --epochs 9223372036854775807             | epochs must be at most 1,000,000,000
compare --rates pepita=1 pepita=2                | the learning rate of pepita is given twice
reproduce --again                                | --again, --epochs and --cells are of an experiment: name it
reproduce --epochs 2                             | --again, --epochs and --cells are of an experiment: name it

# people's own data and models
train --data nowhere.npz                         | there is no nowhere.npz: name an .npz file, a .csv file, or a
train --data nowhere/                            | there is no nowhere
train --data text.npz                            | text.npz is not a readable .npz file of plain arrays
train --data empty.npz                           | empty.npz is not a readable .npz file
train --data half.npz                            | half.npz is not a readable .npz file
train --data pickled.npz                         | holds Python objects, which are not loaded
train --data few.npz                             | few.npz has no targets to learn: name them by --target
train --data ./pipe                              | pipe is not a file
train --data ./socket                            | socket is not a file
train --data ./dangling                          | dangling is not a file: name an .npz file
train --data ./loop                              | loop
train --data full                                | full must have a folder for each class
train --data nan.npz --target y_train            | there is a NaN or an infinity
train --data words.npz                           | must be numbers; given is an array of <U1
train --data t.csv --target nope                 | t.csv has no column 'nope'; it has a, b
train --data t.csv --target ''                   | t.csv has no column ''; it has a, b
train --data t.csv --task both                   | task must be one of classification, regression; given 'both'
train --data bad.csv                             | bad.csv, line 3, has 3 cells; the first line has 2
train --data one.csv                             | test must be 1 to 0
train --data digits --target y                   | target and task are of a file of your own; digits says itself
train --data digits --task regression            | target and task are of a file of your own
train --data digits --patience 0                 | patience must be at least 1; given 0
train --data digits --keep first                 | keep must be one of last, best; given 'first'
train --data digits --log notes                  | Choose from: "csv", "tensorboard", "wandb", "mlflow"
train --data digits --flip                       | of images (channels, height, width); samples have the shape (64,)
train --data digits --shift 3                    | of images (channels, height, width)
train --data digits --crop 0                     | crop must be above 0 and at most 1; given 0
train --data digits --shift -1                   | shift must be at least 0
train --data digits --shift 1.5                  | "1.5"
compare --data digits --flip                     | of images (channels, height, width)
tune --data digits --search width=1:2            | 'width' cannot be searched over; of pepita these can
tune --data digits --trials 0                    | trials must be at least 1; given 0
compare --stress noise                           | a condition of stress is noise:0.3, samples:500 or shift:2, or several of them
compare --stress clean noise:0.3                 | or several of them as noise:0.3+samples:500; given 'clean'
compare --stress ''                              | noise:0.3+samples:500; given ''
compare --stress noise:0                         | given 'noise:0'
compare --stress noise:0.3+                      | given 'noise:0.3+'
compare --stress blur:1                          | given 'blur:1'
compare --stress shift:nan                       | given 'shift:nan'
compare --stress shift:2\n                       | given
compare --stress noise:0.1+noise:0.2             | noise stands twice in the condition 'noise:0.1+noise:0.2'
compare --stress noise:0.3 noise:0.30            | the condition noise:0.3 is given twice
compare --stress noise:1.5                       | the share that is wrong, above 0 and at most 1; given 1.5
compare --stress samples:5000                    | samples must be 1 to 1297, as many as there are to train on; given 5000
compare --stress noise:0.1 samples:2.5           | samples must be a whole number; given 2.5
train --data digits --stress samples:0           | a condition of stress is
train --data digits --stress noise:0.3 samples:5 | "samples:5" belongs to no option
train --data digits --stress samples:10000       | samples must be 1 to 1297
train --data digits --centre --standardise       | --centre is a part of --standardise: give one of them
train --data digits --resume                     | --resume needs --out
train --data digits --resume --out full          | there is no run to continue in full, which has other files
predict                                          | needs a value
predict run                                      | needs a value
predict nowhere --data t.csv                     | there is no file nowhere
predict run --data t.csv                         | there is no model.safetensors in run: the run has not ended
predict full --data t.csv                        | there is no model.safetensors in full: it is no run
predict text.npz --data t.csv                    | text.npz is no file of safetensors, or damaged
predict pipe --data t.csv                        | pipe is not a file
predict run --data t.csv --out                   | needs a value
export --check nowhere | there is no forwardly.json in nowhere
export --check run --out new | --check takes a folder that is there
export --from nowhere | there is no
export --rule nonsense --out new | unknown rule
evaluate                                         | needs a value
evaluate nowhere                                 | there is no file nowhere
evaluate run                                     | there is no model.safetensors in run
evaluate t.csv --data t.csv                      | t.csv is no file of safetensors, or damaged
evaluate run stray stray                         | belongs to no option

# numbers out of range
train --epochs 0                                 | epochs must be at least 1; given 0
train --batch 0                                  | batch must be at least 1; given 0
train --hidden 0                                 | hidden must be
train --hidden 8 -1                              | given [8, -1]
train --hidden 10000000                          | hidden must be sizes of at most 1,000,000; given [10000000]
train --dropout 1                                | dropout must be below 1; given 1.0
train --dropout 0.99999999999999999999           | dropout must be below 1
train --dropout -0.1                             | dropout must be at least 0
train --learning-rate -1                         | learning_rate must be at least 0
train --momentum -1                              | momentum must be at least 0
train --weight-decay -1                          | weight_decay must be at least 0
train --gamma -1                                 | gamma must be at least 0
train --milestones 0                             | milestones must be numbers of epochs of at least 1; given [0]
train --milestones 3 x                           | --milestones must be a whole number; given "x"
train --validation 0                             | validation must be at least 1; given 0
train --data digits --validation 2000            | validation must be 1 to 1496; given 2000
train --data teacher-student --validation 10000000000000 | validation must be 1 to 1,000,000; given 10000000000000
train --seed -1                                  | seed must be at least 0; given -1
train --threads 0                                | threads must be at least 1; given 0
train --threads 1000000                          | threads must be at most 1,024; given 1000000
teacher-student --epochs 0                       | epochs must be at least 1; given 0
teacher-student --epochs -3                      | epochs must be at least 1; given -3
teacher-student --seeds 0                        | seeds must be at least 1
teacher-student --seeds 1000000000               | seeds must be at most 10,000; given 1000000000
teacher-student --hidden 100000000000000         | hidden must be sizes of at most 1,000,000
teacher-student --hidden 0                       | hidden must be
teacher-student --learning-rate 0                | learning_rate must be positive and at most 1e+30; given 0.0
teacher-student --log-every 0                    | log_every must be at least 1
teacher-student --threads 1000000                | threads must be at most 1,024
compare --seeds 0                                | seeds must be at least 1; given 0
compare --seeds 1000000000                       | seeds must be at most 10,000
compare --epochs 0                               | epochs must be at least 1
compare --hidden 0                               | hidden must be
compare --hidden 99999999                        | hidden must be sizes of at most 1,000,000
audit --batch 0                                  | batch must be at least 1
audit --batch 100000000000                       | batch must be at most 1,000,000
audit --hidden 0                                 | hidden must be
audit --hidden 99999999999                       | hidden must be sizes of at most 1,000,000
bench --threads 0                                | threads must be at least 1
bench --threads 1000000                          | threads must be at most 1,024
reproduce bfloat16 --seeds 0                     | seeds must be at least 1
reproduce bfloat16 --seeds 1000000000            | seeds must be at most 10,000
reproduce bfloat16 --seed -1                     | seed must be at least 0
reproduce bfloat16 --jobs 0                      | jobs must be at least 1
reproduce bfloat16 --jobs 1000000000             | jobs must be at most 1,024

# options of rules
train --data digits --rule-options sign          | given as NAME=VALUE; given 'sign'
train --data digits --rule-options =             | given as NAME=VALUE; given '='
train --data digits --rule-options sign=         | given as NAME=VALUE; given 'sign='
train --data digits --rule-options =1            | given as NAME=VALUE; given '=1'
train --data digits --rule-options ''            | given as NAME=VALUE; given ''
train --data digits --rule-options sign=1 sign=-1 | sign is given twice
train --data digits --rule-options sign=3        | sign must be 1 or -1; given 3; the options of pepita are projection
train --data digits --rule-options sign=nan      | nan
train --data digits --rule-options colour=red    | colour
train --data digits --rule-options model=3       | model
train --data digits --rule-options loss=3        | loss
train --data digits --rule-options self=3        | self
train --data digits --rule-options generator=3   | generator
train --data digits --rule-options input_shape=3 | input_shape
train --data digits --rule-options a.b=3         | a.b
train --data digits --rule-options [b]=3         | [b]
train --data digits --rule-options error=3       | error
train --data digits --rule-options projection=nan | given nan
train --data digits --rule-options projection=1e400 | given inf
train --data digits --rule-options projection=-1 | given -1
train --data digits --rule-options projection=1e300 | F must be finite
train --data digits --rule-options projection={"9" * 60} | F must be finite
train --data digits --rule-options projection=text | 'text'
train --data digits --rule-options presynaptic=3 | presynaptic must be modulated or clean; given 3; the options of
train --data digits --rule backprop --rule-options projection=1 | projection

# what does not go together
train --data digits --model conv                 | needs images (c, h, w)
train --data digits --model conv --hidden 3 4    | given [3, 4]
train --data teacher-student --rule forward-forward | classes
train --data digits --rule backprop --precision bf16 | bf16 is for rules that need no
train --data digits --resume                     | --resume needs --out
teacher-student --seeds 2 --arrays few.npz       | --arrays fixes data and weights, so --seeds cannot
teacher-student --hidden 3 --arrays few.npz      | so --hidden cannot

# what is read
teacher-student --arrays ''                      | --arrays must be a path; given ""
teacher-student --arrays nowhere.npz             | there is no file nowhere.npz
teacher-student --arrays [red]nowhere.npz        | there is no file [red]nowhere.npz
teacher-student --arrays no\udcff.npz            | there is no file no\udcff.npz
teacher-student --arrays no\nwhere.npz           | there is no file no
teacher-student --arrays a\0b                    | zero byte
teacher-student --arrays {LONG}                  | {LONG[:50]}
teacher-student --arrays full                    | full is not a readable .npz file of plain arrays: it is not a file
teacher-student --arrays full/file/below         | there is no file full/file/below
teacher-student --arrays text.npz                | text.npz is not a readable .npz file
teacher-student --arrays empty.npz               | empty.npz is not a readable .npz file
teacher-student --arrays half.npz                | half.npz is not a readable .npz file
teacher-student --arrays pickled.npz             | pickled.npz is not a readable .npz file
teacher-student --arrays few.npz                 | few.npz has no array y_train
teacher-student --arrays nan.npz                 | nan.npz: x_train has a NaN or an infinity
teacher-student --arrays shapes.npz              | shapes.npz: w1 must have the shape
teacher-student --arrays words.npz               | words.npz: x_train must be an array of real numbers
teacher-student --arrays pipe                    | pipe is not a readable .npz file of plain arrays: it is not a file
teacher-student --arrays socket                  | socket is not a readable .npz file of plain arrays: it is not a file
teacher-student --arrays /dev/zero               | /dev/zero is not a readable .npz file of plain arrays: it is not a file
teacher-student --arrays dangling                | dangling
teacher-student --arrays loop                    | loop
train --data mnist --data-root full/file         | cannot write to full/file/originals/mnist: Not a directory
train --data mnist --data-root ''                | --data-root must be a path
train --data mnist --data-root /dev/null         | cannot write to /dev/null/originals/mnist
train --data mnist --data-root {LONG}            | File name too long
train --data mnist --data-root damaged           | damaged/mnist.npz cannot be read
train --data fashion-mnist --data-root damaged   | damaged/fashion-mnist.npz cannot be read (it is not a file)
train --data cifar10 --data-root damaged         | damaged/cifar10.npz has no array
train --data cifar100 --data-root damaged        | damaged/cifar100.npz has classes 0 to 100
reproduce bfloat16 --device gpu                  | a device is auto, cpu, cuda, cuda:1 (the second), xpu or mps; given 'gpu'
reproduce bfloat16 --device ''                   | given ''
reproduce bfloat16 --device cuda:                | given 'cuda:'
reproduce bfloat16 --device cpu:x                | given 'cpu:x'
reproduce bfloat16 --device cuda:99              | there is no device 'cuda:99'
reproduce bfloat16 --device {LONG}               | a device is auto
train --data digits --device gpu                 | given 'gpu'
train --data digits --device cuda:99             | there is no device 'cuda:99'
compare --device cuda:99                         | there is no device 'cuda:99'
teacher-student --device cuda:99                 | there is no device 'cuda:99'
audit --pipeline                                 | --pipeline needs 2 values; given none
audit --pipeline 4                               | --pipeline needs 2 values; given 4
audit --pipeline 1.5 2                           | --pipeline must be a whole number; given "1.5"
audit --pipeline 0 4                             | pipeline's ranks must be at least 1; given 0
audit --pipeline 4 257                           | pipeline's microbatches must be at most 256; given 257
audit --model vit --pipeline 2 2                 | a pipeline is of chains of layers
audit --device cuda:99                           | there is no device 'cuda:99'
reproduce bfloat16 --data-root full/file         | cannot write to full/file/originals/
report nowhere                                   | there is no folder nowhere
report [red]nowhere                              | there is no folder [red]nowhere
report no\x07where                               | there is no folder no\x07where
report no\udcff                                  | there is no folder no\udcff
report ''                                        | must be a path; given ""
report full/file                                 | there is no folder full/file
report pipe                                      | there is no folder pipe
report loop                                      | there is no folder loop
report dangling                                  | there is no folder dangling
report {LONG}                                    | there is no folder {LONG}
report cut                                       | record.json is no JSON
report run                                       | run/config.json is no JSON
reproduce bfloat16 --records cut --cells fc-mnist/bf16 --seeds 1 | record.json is no JSON

# what is continued
train --data digits --resume --out full          | there is no run to continue in full
train --data digits --resume --out full/file     | there is no run to continue in full/file
train --data digits --resume --out loop          | loop
train --data digits --resume --out pipe          | there is no run to continue in pipe
train --data digits --resume --out {LONG}        | File name too long
train --data digits --resume --out ''            | --out must be a path

# what is written
train --data digits --out full                   | full exists already, and nothing is overwritten: name another --out
train --data digits --out pipe                   | pipe exists already
train --data digits --out /dev/null              | /dev/null exists already
train --data digits --out full/file/below        | cannot write to full/file/below: Not a directory
train --data digits --out loop                   | cannot write to loop
train --data digits --out dangling               | cannot write to dangling: File exists
train --data digits --out {LONG}                 | File name too long
train --data digits --out a\0b                   | zero byte
train --data digits --out ''                     | --out must be a path
train --data digits --out /proc/no/run           | cannot write to /proc/no/run
teacher-student --out full                       | full exists already
teacher-student --out text.npz                   | text.npz exists already
teacher-student --out text.npz/below             | cannot write to text.npz/below
teacher-student --out {LONG}                     | File name too long
teacher-student --out [red]/{LONG}               | cannot write to [red]/
compare --out full                               | full exists already
compare --out full/file/below                    | cannot write to full/file/below
audit --out full                                 | full exists already
audit --out {LONG}                               | File name too long
bench --out full                                 | full exists already
bench --out socket                               | socket exists already
report records --out nowhere/page.html           | cannot write to nowhere/page.html: No such file or directory
report records --out full                        | cannot write to full: it is there, and is no file
report records --out /dev/null                   | cannot write to /dev/null: it is there, and is no file
report records --out pipe                        | cannot write to pipe
report records --out full/file/page.html         | cannot write to full/file/page.html: Not a directory
report records --out \ud800/page.html            | --out must be a path; given "\ud800/page.html"
report records --out {LONG}                      | File name too long
report records --out ''                          | --out must be a path
reproduce bfloat16 --records full/file           | cannot write to full/file: Not a directory; name another --records
reproduce bfloat16 --work full/file/below        | cannot write to full/file/below: Not a directory; name another --work
reproduce bfloat16 --work /proc/no               | name another --work
reproduce bfloat16 --records {LONG}              | File name too long
reproduce teacher_student --records full/file    | cannot write to full/file
reproduce teacher_student --work pipe            | cannot write to pipe

# longer than anything is
train --rule {"a" * 5000}                        | an argument has 5,000 characters
train --epochs {"1" * 5000}                      | an argument has 5,000 characters
"""  # noqa: E501

WHOLE = ("1.5", "1.0", "1e3", "", "many", "none", "0x10", "1,000", "nan", "١", HUGE, f"-{HUGE}")
NUMBER = ("", "many", "none", "nan", "inf", "-inf", "1e400", "1,5", "0x10")


class Wrong(NamedTuple):
    given: list[str]
    says: str


def listed() -> Iterator[Wrong]:
    for line in LINES.splitlines():
        if line and not line.startswith("#"):
            given, _, says = line.rpartition(" | ")
            parts = shlex.split(given.replace("\\", "\\\\"))
            yield Wrong([part.encode().decode("unicode_escape") for part in parts], says.strip())


def found() -> Iterator[Wrong]:
    """Every option of every command: without a value, and with some that are none of its type."""
    for name in [name for name in app if not name.startswith("-")]:
        for argument in app[name].assemble_argument_collection():
            option, types = argument.name, set(kinds(argument.hint))
            if not (argument.show and option.startswith("--")) or bool in types:
                continue
            if option == "--data-parallel":  # which may stand alone
                continue
            if option == "--pipeline":  # which takes two: see LINES
                continue
            says = f"{option} needs a value"
            yield Wrong([name, option], says)
            yield Wrong([name, option, option], says)
            everything = option in ("--epochs", "--gamma", "--hidden")  # the others are as they are
            if int in types:
                for text in WHOLE if everything else ("1.5", HUGE):
                    limit = text.strip("-") == HUGE
                    must = "be at most 9223372036854775807" if limit else "be a whole number"
                    yield Wrong([name, option, text], f"{option} must {must}; given")
            elif float in types:
                for text in NUMBER if everything else ("many", "1e400"):
                    yield Wrong([name, option, text], f'number; given "{text}"')
            elif Path in types:
                yield Wrong([name, option, ""], f'{option} must be a path; given ""')


def fill(root: Path) -> None:
    """Everything that a path on a command line may lead to."""
    for name in ("full", "records", "run", "damaged", "cut/bfloat16/fc-mnist/bf16/seed-0"):
        (root / name).mkdir(parents=True)
    for name in ("full/file", "text.npz", "run/config.json", "cut/bfloat16/fc-mnist/bf16/seed-0/x"):
        (root / name).write_text("hello", "utf-8")
    (root / "cut/bfloat16/fc-mnist/bf16/seed-0/record.json").write_text('{"experiment', "utf-8")
    (root / "empty.npz").touch()
    (root / "t.csv").write_text("a,b\n" + "1,2.5\n" * 20, "utf-8")
    (root / "one.csv").write_text("a,b\n1,2.5\n", "utf-8")
    (root / "bad.csv").write_text("a,b\n1,2\n1,2,3\n", "utf-8")
    one = np.ones((3, 2))
    task = dict.fromkeys(("x_train", "x_val"), one) | {"w1": one.T, "w2": one, "F": one.T}
    task |= {name: np.ones((3, 2)) for name in ("y_train", "y_val")}
    np.savez(root / "few.npz", x_train=one)
    np.savez(root / "nan.npz", **(task | {"x_train": one * np.nan, "F": np.ones((2, 2))}))
    np.savez(root / "shapes.npz", **(task | {"w1": np.ones(7)}))
    np.savez(root / "words.npz", **(task | {"x_train": np.array(["a", "b"])}))
    np.savez(root / "pickled.npz", **(task | {"x_train": np.array([None, {}])}), allow_pickle=True)
    (root / "half.npz").write_bytes((root / "nan.npz").read_bytes()[:700])
    images, classes = np.zeros((4, 6, 6, 3), np.uint8), np.array([0, 100, 1, 2])
    parts = {"x_train": images, "y_train": classes, "x_test": images, "y_test": classes}
    (root / "damaged/mnist.npz").write_bytes(b"PK\3\4 and no more")
    (root / "damaged/fashion-mnist.npz").mkdir()
    np.savez(root / "damaged/cifar10.npz", x_train=images)
    np.savez(root / "damaged/cifar100.npz", **parts)
    os.mkfifo(root / "pipe")
    with socket.socket(socket.AF_UNIX) as made:
        made.bind("socket")  # by its short name, as those of sockets are
    (root / "dangling").symlink_to("nowhere")
    (root / "loop").symlink_to("loop")


def contents(root: Path) -> dict[str, tuple[int, int]]:
    """All that is there, and when it was last changed."""
    return {
        os.path.join(folder, name): (status.st_size, status.st_mtime_ns)  # noqa: PTH118
        for folder, folders, names in os.walk(root)
        for name in (*folders, *names)
        for status in [os.lstat(os.path.join(folder, name))]  # noqa: PTH118
    }


def wrongly(done: CompletedProcess[str], says: str) -> str | None:
    """What is wrong with how a wrong command line was answered."""
    lines = done.stderr.splitlines()
    if done.returncode != 2 or done.stdout:
        return f"code {done.returncode}, stdout {done.stdout[:200]!r}, stderr {done.stderr[:300]!r}"
    if not 1 <= len(lines) <= 2 or not all(map(str.isprintable, lines)):
        return f"not a printable line or two: {lines[:4]}"
    if not lines[0].startswith("error: ") or says not in done.stderr:
        return f"it should say {says!r}: {done.stderr[:300]!r}"
    return None


@pytest.mark.skipif(os.name != "posix", reason="pipes and sockets with names are POSIX's")
@pytest.mark.parametrize("lines", [listed, found])
def test_each_is_refused_in_a_line(
    lines: Callable[[], Iterator[Wrong]], tmp_path: Path, command: Command
) -> None:
    fill(tmp_path)
    before = contents(tmp_path)
    cases = [*lines()]
    assert len(cases) > 100
    commands = {name for name in app if not name.startswith("-")}
    tested = {case.given[0] for case in cases} & commands
    assert tested == (commands if lines is listed else commands - {"rules", "cite"})
    failures: list[str] = []
    for given, says in cases:
        shown = " ".join(part[:60] for part in given)
        try:
            problem = wrongly(command(*given), says)
        except BaseException as error:
            problem = repr(error)
        after = contents(tmp_path)
        if after != before:
            problem = f"{problem}; left: {sorted(set(after.items()) ^ set(before.items()))}"
            before = after
        if problem:
            failures.append(f"{shown!r}: {problem}")
    assert not failures, f"{len(failures)} of {len(cases)}:\n" + "\n".join(failures)


@pytest.mark.skipif(os.name != "posix", reason="permissions are POSIX's")
def test_what_may_not_be_read_or_written(monkeypatch: pytest.MonkeyPatch, command: Command) -> None:
    """As an ordinary user; root may do anything."""
    with tempfile.TemporaryDirectory() as name:
        monkeypatch.chdir(name)  # not that of pytest, which nobody else may enter
        Path(name).chmod(0o755)
        for locked in ("locked", "locked/run", "records"):
            Path(locked).mkdir()
        for place in ("locked/run/config.json", "secret.npz"):
            Path(place).touch(mode=0)
        Path("locked").chmod(0)
        Path("open").mkdir()
        Path("open").chmod(0o777)
        Path("few.csv").write_text("x,y\n" + "1,a\n2,b\n" * 20, encoding="utf-8")
        # Only root may read what Python is installed in, perhaps: what is needed is imported first,
        # and the samples are of a file here, not of a package's.
        for line in ("train --data few.csv --out secret.npz", "report nowhere"):
            command(*line.split())
        for line, says in {
            "teacher-student --arrays secret.npz": "secret.npz is not a readable .npz file",
            "teacher-student --arrays locked/few.npz": "locked/few.npz",
            "teacher-student --out here": "cannot write to here: Permission denied",
            "train --data few.csv --out locked/here": "cannot write to locked/here: Permission",
            "train --data few.csv --resume --out locked/run": "locked/run: Permission denied",
            "train --data mnist --data-root locked": "locked",
            "report locked --out open/page.html": "locked cannot be read: Permission denied",
            "report records --out locked/page.html": "locked/page.html: Permission denied",
            "report records --out page.html": "cannot write to page.html: Permission denied",
            "reproduce bfloat16 --records open --work locked/work": "cannot write to locked/work",
            "reproduce bfloat16 --records here": "cannot write to here: Permission denied",
        }.items():
            with ordinary_user():
                done = command(*line.split())
            assert wrongly(done, says) is None, (line, done.stderr)
