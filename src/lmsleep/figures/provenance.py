"""Where a number comes from: the class of machine and the commit."""

import os
import platform
import subprocess

import torch


def hardware() -> str:
    """The class of machine: the name of the GPU if this process used one, else the kind of CPU and its cores."""
    if torch.cuda.is_initialized():
        return torch.cuda.get_device_name()
    return f"{platform.machine()} CPU, {os.cpu_count()} cores"


def commit() -> str | None:
    """The commit checked out here, with a `+` where src or configs differ from it; None where there is no git."""
    said = []
    for words in (["rev-parse", "HEAD"], ["status", "--porcelain", "--", "src", "configs"]):
        try:
            said.append(subprocess.run(["git", *words], capture_output=True, text=True, check=True).stdout.strip())
        except (OSError, subprocess.CalledProcessError):
            return None
    return said[0] + ("+" if said[1] else "")
