"""A cluster of two nodes on this machine: Slurm with its accounting, out of Debian's packages, in a folder of its own.

Nothing of the machine's own Slurm, munge or database is read or written. The GPUs are files that nobody opens.
"""

import os
import shutil
import socket
import subprocess
import time
from contextlib import ExitStack, contextmanager

PROGRAMS = ("munged", "mariadbd", "mariadb", "mariadb-install-db", "slurmdbd", "slurmctld", "slurmd", "sacctmgr")
GPUS = 2
PATIENCE = 60.0


def missing():
    """The programs that are not installed here."""
    return [name for name in PROGRAMS if shutil.which(name) is None]


@contextmanager
def cluster(folder):
    """Start it, yield what a process needs in its environment, and end it."""
    ports = _free_ports(5)
    _write(folder, *ports)
    environment = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf")}
    with ExitStack() as started:

        def start(*words):
            with (folder / f"{words[0]}.txt").open("ab") as file:
                process = subprocess.Popen(list(map(str, words)), stdout=file, stderr=file, env=environment, cwd=folder)
            started.callback(_end, process)

        def say(*words, **options):
            return subprocess.run(list(map(str, words)), capture_output=True, text=True, env=environment, **options)

        places = {"socket": "sock", "pid-file": "pid", "log-file": "log", "seed-file": "seed", "key-file": "key"}
        own = [f"--{kind}={folder / 'munge'}.{ending}" for kind, ending in places.items()]
        start("munged", "--foreground", "--force", *own)
        data, door = folder / "database", folder / "database.sock"
        say("mariadb-install-db", "--no-defaults", "--user=root", f"--datadir={data}", check=True)
        where = ("--bind-address=127.0.0.1", f"--port={ports[4]}", f"--socket={door}")
        start("mariadbd", "--no-defaults", "--user=root", f"--datadir={data}", *where)
        grant = "create user slurm@'127.0.0.1' identified by 'slurm'; grant all on slurm.* to slurm@'127.0.0.1'"
        until(lambda: say("mariadb", "--no-defaults", f"--socket={door}", "-e", grant).returncode == 0)
        start("slurmdbd", "-D")
        until(lambda: "here" in say("sacctmgr", "-i", "add", "cluster", "here").stdout)
        start("slurmctld", "-D", "-c")
        for name in ("n1", "n2"):
            start("slurmd", "-D", "-N", name)
        until(lambda: say("sinfo", "-h", "-t", "idle", "-o", "%D").stdout.strip() == "2")
        yield environment


def until(found, patience=PATIENCE):
    """Wait until `found()` is true; raises `TimeoutError` if it never is."""
    end = time.monotonic() + patience
    while not found():
        if time.monotonic() > end:
            raise TimeoutError(f"{patience:.0f} seconds went by")
        time.sleep(0.3)


def _end(process):
    process.terminate()
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _free_ports(count):
    with ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def _write(folder, controller, first, second, accounting, database):
    """The files of Slurm and munge, and the folders that Slurm writes into."""
    (folder / "munge.key").write_bytes(os.urandom(1024))
    (folder / "munge.key").chmod(0o400)
    for name in ("state", "spool-n1", "spool-n2"):
        (folder / name).mkdir()
    for number in range(GPUS):
        (folder / f"gpu{number}").touch()
    host = socket.gethostname()
    node = f"NodeHostname={host} NodeAddr=127.0.0.1 CPUs=2 Sockets=1 CoresPerSocket=2 RealMemory=4000 Gres=gpu:{GPUS}"
    shared = f"AuthType=auth/munge\nAuthInfo=socket={folder / 'munge.sock'}\nSlurmUser=root\n"
    (folder / "slurm.conf").write_text(
        f"""{shared}
ClusterName=here
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmdUser=root
StateSaveLocation={folder / "state"}
SlurmdSpoolDir={folder / "spool-%n"}
SlurmctldPidFile={folder / "slurmctld.pid"}
SlurmdPidFile={folder / "slurmd-%n.pid"}
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost={host}
AccountingStoragePort={accounting}
AccountingStoragePass={folder / "munge.sock"}
JobAcctGatherType=jobacct_gather/none
GresTypes=gpu
NodeName=n1 {node} Port={first}
NodeName=n2 {node} Port={second}
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
SlurmdParameters=config_overrides
"""
    )
    (folder / "gres.conf").write_text(f"Name=gpu File={folder}/gpu[0-{GPUS - 1}]\n")
    (folder / "slurmdbd.conf").write_text(
        f"""{shared}
DbdHost={host}
DbdPort={accounting}
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort={database}
StorageUser=slurm
StoragePass=slurm
StorageLoc=slurm
PidFile={folder / "slurmdbd.pid"}
"""
    )
    (folder / "slurmdbd.conf").chmod(0o600)
