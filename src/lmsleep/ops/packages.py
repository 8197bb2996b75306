"""How the packages of kernels are installed."""

FROM_SOURCE = "pip install --no-build-isolation --no-cache-dir"
INSTALL = {  # what a kernel backend imports -> the command that installs it
    "triton": "pip install triton",
    "fla": "pip install flash-linear-attention",
    "mamba_ssm": f"{FROM_SOURCE} mamba-ssm",
    "causal_conv1d": f"{FROM_SOURCE} causal-conv1d",
}
