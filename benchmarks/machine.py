"""The machine and the code version of a result."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from pathlib import Path

from benchmarks.server import ROOT


def commit() -> str:
    """Return the version of the code."""
    command = ["git", "rev-parse", "--short", "HEAD"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def processor() -> str:
    """Return the processor and its vector instructions."""
    text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    name = re.findall(r"^model name\s*: (.*)$", text, re.MULTILINE)
    family = re.findall(r"^cpu family\s*: (.*)$", text, re.MULTILINE)
    flags = set(re.findall(r"^flags\s*: (.*)$", text, re.MULTILINE)[0].split())
    known = [flag for flag in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if flag in flags]
    return f"{len(name)} cores of {name[0]} (family {family[0]}), {' '.join(known)}"


def memory() -> str:
    """Return the size of the memory."""
    text = Path("/proc/meminfo").read_text(encoding="ascii")
    kib = re.search(r"^MemTotal:\s+(\d+)", text)
    return f"{int(kib[1]) / 2**20:.1f} GiB" if kib else "unknown"


def kernel() -> str:
    """Return the version of the kernel."""
    return f"{platform.system()} {platform.release()}"


def load_generator() -> str:
    """Return the version of wrk."""
    done = subprocess.run(["wrk", "-v"], capture_output=True, text=True, check=False)  # noqa: S607
    return (done.stdout + done.stderr).split(" Copyright")[0].strip()


def busy_seconds(cores: str) -> float:
    """Return the CPU time used on these cores so far by all processes, stolen time included."""
    ticks = 0
    for line in Path("/proc/stat").read_text(encoding="ascii").splitlines():
        name, *values = line.split()
        if name in {f"cpu{core}" for core in cores.split(",")}:
            user, nice, system, _, _, _, _, steal = map(int, values[:8])
            ticks += user + nice + system + steal
    return ticks / os.sysconf("SC_CLK_TCK")
