"""A Slurm of one node on this machine, from Debian's packages, for tests."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path

SECONDS = 60
CONFIGURATION = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
AuthType=auth/munge
AuthInfo=socket={root}/munge.socket
SlurmUser=root
SlurmdUser=root
StateSaveLocation={root}/state
SlurmdSpoolDir={root}/spool
SlurmctldPidFile={root}/slurmctld.pid
SlurmdPidFile={root}/slurmd.pid
SlurmctldLogFile={root}/slurmctld.log
SlurmdLogFile={root}/slurmd.log
ProctrackType=proctrack/pgid
TaskPlugin=task/none
SchedulerType=sched/builtin
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
MpiDefault=none
SwitchType=switch/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
SlurmdParameters=config_overrides
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 RealMemory=4000 State=UNKNOWN
PartitionName=all Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


def why_not() -> str:
    """Why there is none here; empty if there is."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        return "Slurm's daemons are begun as root"
    lacking = [name for name in ("munged", "slurmctld", "slurmd", "sbatch") if not _found(name)]
    return f"{', '.join(lacking)} not installed" if lacking else ""


def _found(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin")


@contextmanager
def slurm(root: Path) -> Generator[dict[str, str]]:
    """The environment in which Slurm's commands know it; listens on 127.0.0.1 alone."""
    host = socket.gethostname().split(".")[0]
    for name in ("state", "spool"):
        (root / name).mkdir(parents=True)
    key = root / "munge.key"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o400)
    configuration = root / "slurm.conf"
    text = CONFIGURATION.format(host=host, root=root, ports=(_free_port(), _free_port()))
    configuration.write_text(text, "utf-8")
    environment = {**os.environ, "SLURM_CONF": str(configuration)}
    files = [f"--{name}-file={root}/munge.{name}" for name in ("key", "pid", "seed", "log")]
    munged = [f"--socket={root}/munge.socket", *files]
    with ExitStack() as left:
        for name, *options in (
            ("munged", "--foreground", "--force", *munged),
            ("slurmctld", "-D", "-f", str(configuration)),
            ("slurmd", "-D", "-f", str(configuration), "-N", host),
        ):
            program = _found(name)
            assert program is not None
            output = left.enter_context((root / f"{name}.out").open("w"))
            process = subprocess.Popen(
                [program, *options], env=environment, stdout=output, stderr=output
            )
            left.callback(process.wait)
            left.callback(process.terminate)
        end = time.monotonic() + SECONDS
        while "idle" not in _said("sinfo", "-h", "-o", "%T", environment=environment):
            assert time.monotonic() < end, (root / "slurmctld.log").read_text("utf-8")
            time.sleep(0.2)
        yield environment


def jobs(environment: dict[str, str]) -> list[str]:
    """The numbers of its jobs that wait or run."""
    return _said("squeue", "-h", "-t", "PD,R", "-o", "%i", environment=environment).split()


def _said(*command: str, environment: dict[str, str]) -> str:
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    return done.stdout


def _free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])
