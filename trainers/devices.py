"""The device that trials train on: a GPU where there is one, never the CPU in its place unasked.

What the driver says of the GPUs here (NVML, /proc) is held against what torch can use of them.
"""

from __future__ import annotations

import os
import re
import warnings
from pathlib import Path

import pynvml
import torch

from spaces.errors import InputError

ASKED = "SEGTUNE_DEVICE"  # cpu, or cuda: a GPU or nothing
VISIBLE = "CUDA_VISIBLE_DEVICES"
SHARED_BY = "SEGTUNE_WORKERS_PER_GPU"  # set by who starts several workers on a card
DRIVERS = {11: 450, 12: 525, 13: 580}  # oldest driver for a CUDA version (NVIDIA's CUDA notes)
OLDER = "torch 2.14 was the last with a build for CUDA 12.6, see pytorch.org/get-started"
CPU_INSTEAD = f"or train on the CPU with {ASKED}=cpu"
_PROC = Path("/proc/driver/nvidia/gpus")


def pick_device() -> torch.device:
    """Return the first CUDA device that this process sees; the CPU where the machine has none.

    $SEGTUNE_DEVICE=cpu takes the CPU in any case, cuda refuses it.

    Raises:
        InputError: a GPU is there, but torch cannot use it; or $SEGTUNE_DEVICE is something else.
    """
    asked = os.environ.get(ASKED, "")
    if asked not in ("", "cpu", "cuda"):
        raise InputError(f"{ASKED}={asked}: must be cpu or cuda, or not set")
    if asked == "cpu":
        return torch.device("cpu")
    if _torch_sees_one():
        for index in range(torch.cuda.device_count()):
            _check_card(index)
        return torch.device("cuda")
    there = gpus_here()
    if there:
        raise InputError(f"{', '.join(there)} cannot be used: {_why_unseen()}, {CPU_INSTEAD}")
    if asked == "cuda":
        raise InputError(
            f"{ASKED}=cuda asks for a GPU, but no driver knows one: {_why_unseen()}, {CPU_INSTEAD}"
        )
    return torch.device("cpu")


def gpus_here() -> list[str]:
    """Names of the machine's NVIDIA GPUs as their driver tells them, whatever torch can do."""
    try:
        pynvml.nvmlInit()
        count = pynvml.nvmlDeviceGetCount()
        handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(count)]
        return [pynvml.nvmlDeviceGetName(handle) for handle in handles]
    except pynvml.NVMLError:  # no driver; or a library of another version than the kernel's module
        return [_model(path) for path in sorted(_PROC.glob("*/information"))]


def visible_gpus() -> list[str]:
    """The devices that this process may use, each as CUDA_VISIBLE_DEVICES names it.

    A process sees one slice of a MIG card at a time, so that slices are counted by their names.
    """
    if pick_device().type == "cpu":
        return []
    names = [name.strip() for name in os.environ.get(VISIBLE, "").split(",") if name.strip()]
    count = torch.cuda.device_count()
    if any(name.startswith("MIG-") for name in names):
        return names
    return names[:count] or _mig_slices() or [str(index) for index in range(count)]


def sharers() -> int:
    """Workers that share this process's card, itself included.

    Raises:
        InputError: $SEGTUNE_WORKERS_PER_GPU is no number of workers.
    """
    given = os.environ.get(SHARED_BY, "1")
    if not given.isdecimal() or int(given) < 1:
        raise InputError(f"{SHARED_BY}={given}: must be a whole number, at least 1")
    return int(given)


def device_name(device: torch.device) -> str:
    """Return the GPU's name, or `cpu`."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def set_up(device: torch.device, precision: str, *, fixed_shapes: bool) -> None:
    """Choose how a GPU computes, for this process.

    fp32 is IEEE's: TensorFloat-32 has a mantissa of 10 bits, and who asks for fp32 beside bf16 and
    fp16 wants the exact one. cuDNN tries its kernels out for each new shape, which pays only where
    shapes come again.
    """
    if device.type == "cuda":
        sums = "ieee" if precision == "fp32" else "tf32"
        torch.backends.cuda.matmul.fp32_precision = sums
        torch.backends.cudnn.conv.fp32_precision = sums  # type: ignore[attr-defined]
        torch.backends.cudnn.benchmark = fixed_shapes


def _torch_sees_one() -> bool:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what it warns of is told below
        return torch.cuda.is_available()


def _check_card(index: int) -> None:
    """Refuse a card that this build of torch has no kernels for."""
    major, minor = torch.cuda.get_device_capability(index)
    built = _built_for()
    if any((major, minor) >= arch and (ptx or major == arch[0]) for arch, ptx in built):
        return
    raise InputError(
        f"{torch.cuda.get_device_name(index)} cannot be used: it has compute capability "
        f"{major}.{minor}, but torch {torch.__version__} was built for "
        f"{', '.join(f'{a}.{b}' for a, b in sorted({arch for arch, _ in built}))}; install a torch "
        f"build that has it ({OLDER}), hide the card with {VISIBLE}, {CPU_INSTEAD}"
    )


def _built_for() -> list[tuple[tuple[int, int], bool]]:
    """((major, minor), whether newer cards can compile it) of each architecture of the wheel."""
    found = (re.fullmatch(r"(sm|compute)_(\d+)(\d)", arch) for arch in torch.cuda.get_arch_list())
    return [((int(m[2]), int(m[3])), m[1] == "compute") for m in found if m]


def _why_unseen() -> str:
    """Why torch sees no device, and the way out."""
    if torch.version.cuda is None:
        return f"torch {torch.__version__} is a build without CUDA; install one with it"
    try:
        torch.cuda.init()
        said = "torch counts no device"
    except Exception as error:
        said = str(error).partition("\n")[0]
    old = re.search(r"too old \(found version (\d+)\)", said)
    if old:
        has, major = int(old[1]), int(torch.version.cuda.partition(".")[0])
        return (
            f"its driver{_driver()} is too old, with CUDA {has // 1000}.{has % 1000 // 10}; torch "
            f"{torch.__version__} needs CUDA {major}: install driver {DRIVERS.get(major, 'newer')} "
            f"or newer, or a torch build for CUDA {has // 1000} ({OLDER})"
        )
    if (visible := os.environ.get(VISIBLE)) is not None:
        return f"{VISIBLE}={visible!r} names none of them; name one, or unset it"
    return f"{said}; see what nvidia-smi says (in a container: was it started with --gpus?)"


def _driver() -> str:
    try:
        return f" {pynvml.nvmlSystemGetDriverVersion()}"
    except pynvml.NVMLError:
        return ""


def _model(information: Path) -> str:
    """The name in a file of /proc/driver/nvidia/gpus."""
    found = re.search(r"^Model:\s*(.+)$", information.read_text(), re.MULTILINE)
    return found[1] if found else "an NVIDIA GPU"


def _mig_slices() -> list[str]:
    """UUIDs of the MIG slices of this machine's cards."""
    slices = []
    try:
        pynvml.nvmlInit()
        for card in range(pynvml.nvmlDeviceGetCount()):
            handle = pynvml.nvmlDeviceGetHandleByIndex(card)
            for index in range(pynvml.nvmlDeviceGetMaxMigDeviceCount(handle)):
                try:
                    one = pynvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, index)
                except pynvml.NVMLError_NotFound:
                    continue
                slices.append(pynvml.nvmlDeviceGetUUID(one))
    except pynvml.NVMLError:  # no MIG, or no NVML
        pass
    return slices
