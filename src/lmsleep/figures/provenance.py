"""The hardware and the commit of a result."""

import os
import platform
import subprocess

import torch


def hardware() -> str:
    """The name of the GPU if this process used one, else the architecture and the cores of the CPU."""
    if torch.cuda.is_initialized():
        return torch.cuda.get_device_name()
    return f"{platform.machine()} CPU, {os.cpu_count()} cores"


def commit() -> str | None:
    """The current commit, with a `+` if src or configs differ from it; None without git."""
    outputs = []
    for words in (["rev-parse", "HEAD"], ["status", "--porcelain", "--", "src", "configs"]):
        try:
            outputs.append(subprocess.run(["git", *words], capture_output=True, text=True, check=True).stdout.strip())
        except (OSError, subprocess.CalledProcessError):
            return None
    return outputs[0] + ("+" if outputs[1] else "")
