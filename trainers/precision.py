"""Which number format a device trains in, and the scaler that fp16 needs."""

from __future__ import annotations

import torch

from spaces.errors import InputError
from trainers.devices import device_name, pick_device, set_up

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def resolve_precision(precision: str, device: torch.device) -> str:
    """Return fp32, bf16 or fp16 for `train.precision`.

    auto: bf16 on a GPU that has it in hardware, else fp16; on a CPU bf16 where the CPU has it in
    hardware, else fp32.

    Raises:
        InputError: fp16 is asked for on a CPU, where it is slower than fp32 and has no scaler; or
            bf16 on a GPU that only emulates it.
    """
    if precision == "fp16" and device.type == "cpu":
        raise InputError(
            "train.precision: fp16 needs a GPU, but none is visible; use auto, bf16 or fp32"
        )
    if precision == "bf16" and device.type == "cuda" and not has_bf16(device):
        raise InputError(
            f"train.precision: {device_name(device)} has no bf16 in hardware (compute capability "
            "8.0 or newer has), and emulated it is slower than fp32; use auto, fp16 or fp32"
        )
    if precision != "auto":
        return precision
    if has_bf16(device):
        return "bf16"
    return "fp16" if device.type == "cuda" else "fp32"


def device_to_score_on(precision: str) -> tuple[torch.device, str]:
    """Return (device, resolved precision) to score a saved model on, and set the device up.

    Raises:
        InputError: as of `pick_device` and `resolve_precision`.
    """
    device = pick_device()
    resolved = resolve_precision(precision, device)
    set_up(device, resolved, fixed_shapes=False)
    return device, resolved


def has_bf16(device: torch.device) -> bool:
    """Tell whether a device multiplies bf16 in hardware."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return cpu_has_bf16()


def cpu_has_bf16() -> bool:
    """Tell whether the CPU multiplies bf16 in hardware (AVX512-BF16 or AMX)."""
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Return the autocast context of a resolved precision (disabled for fp32)."""
    return torch.autocast(device.type, DTYPES[precision], enabled=precision != "fp32")


def grad_scaler(device: torch.device, precision: str) -> torch.amp.GradScaler:
    """Return a loss scaler, active for fp16 only: bf16 has the range of fp32."""
    return torch.amp.GradScaler(device.type, enabled=precision == "fp16")
