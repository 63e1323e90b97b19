"""Tests of utils.gpu: every state in which nvidia-smi and its Python packages are found, peaks of memory, timing."""

import math
import os
import re
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import torch

from utils import gpu
from utils.gpu import MIB, Timing, benchmark, gpu_usage, track_memory

ROW = "{index}, GPU-0{index}, {load}, {total}, 360, {free}, 535.104, {name}, 0, Disabled, Disabled, 40"


def t4(index: int = 0, load: str = "12", total: str = "15360", free: str = "15000", name: str = "Tesla T4") -> str:
    return ROW.format(index=index, load=load, total=total, free=free, name=name)


def fake_nvidia_smi(folder: Path, script: str) -> None:
    path = folder / "nvidia-smi"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


@pytest.fixture
def nvidia_smi(tmp_path, monkeypatch):
    """A function that installs a shell script as nvidia-smi, the only way to a GPU on this machine."""
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setitem(sys.modules, "pynvml", None)  # makes its import fail
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    return lambda script: fake_nvidia_smi(tmp_path, script)


@pytest.fixture
def gputil(nvidia_smi):
    pytest.importorskip("GPUtil", reason="GPUtil cannot be imported here", exc_type=ImportError)
    return nvidia_smi


def is_process_memory(devices: gpu.Devices) -> bool:
    (device,) = devices
    return "no GPU" in repr(devices) and 20 * MIB < device.used < device.total and 0 < device.free < device.total


def test_one_gpu_with_all_its_figures(gputil):
    gputil(f"echo '{t4()}'")
    assert gpu_usage() == [("Tesla T4", 15000 * MIB, 360 * MIB, 15360 * MIB, 0.12)]
    header, row = repr(gpu_usage()).splitlines()
    assert header.split() == ["free", "used", "total", "utilisation"]
    assert re.split("  +", row) == ["Tesla T4", "15,000 MiB", "360 MiB", "15,360 MiB", "12%"]
    assert len(header) == len(row)


def test_several_gpus_have_a_row_each_in_order(gputil):
    gputil(f"echo '{t4(0)}'; echo '{t4(1, load='0', name='NVIDIA A100-SXM4-80GB', total='81920', free='81560')}'")
    assert [(d.name, d.free // MIB) for d in gpu_usage()] == [("Tesla T4", 15000), ("NVIDIA A100-SXM4-80GB", 81560)]
    assert len({len(line) for line in repr(gpu_usage()).splitlines()}) == 1


@pytest.mark.parametrize("unknown", ["[N/A]", "[Not Supported]"])
def test_figures_that_the_driver_does_not_tell_are_shown_as_unknown(gputil, unknown):
    gputil(f"echo '{t4(load=unknown, free=unknown)}'")
    (device,) = gpu_usage()
    assert math.isnan(device.utilisation)
    assert math.isnan(device.free)
    assert device.total == 15360 * MIB
    assert repr(gpu_usage()).count("N/A") == 2
    assert "nan" not in repr(gpu_usage())


@pytest.mark.parametrize(
    "script",
    [
        "echo 'NVIDIA-SMI has failed because it could not communicate with the NVIDIA driver.'; exit 9",
        "exit 9",
        "echo 'No devices were found'; exit 6",
        f"echo '{t4(total='0')}'",
        "echo '0, half a line'",
        r"printf '\377\376\n'",
    ],
)
def test_a_failing_nvidia_smi_leads_to_the_memory_of_the_process(nvidia_smi, script, capfd):
    nvidia_smi(script)
    assert is_process_memory(gpu_usage())
    assert capfd.readouterr().err == ""


def test_no_nvidia_smi_leads_to_the_memory_of_the_process(nvidia_smi, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert is_process_memory(gpu_usage())


def test_a_hanging_nvidia_smi_is_given_up_after_the_time_out(gputil, monkeypatch):
    gputil("exec sleep 4")
    monkeypatch.setattr(gpu, "PATIENCE", 0.5)
    start = time.perf_counter()
    assert is_process_memory(gpu_usage())
    assert 0.5 <= time.perf_counter() - start < 3


def test_pytorch_tells_the_memory_where_nothing_else_does(nvidia_smi, monkeypatch):
    nvidia_smi("exit 9")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda index: (3 * MIB, (8 + index) * MIB))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: f"card {index}")
    devices = gpu_usage()
    assert [device[:4] for device in devices] == [
        ("card 0", 3 * MIB, 5 * MIB, 8 * MIB),
        ("card 1", 3 * MIB, 6 * MIB, 9 * MIB),
    ]
    assert "N/A" in repr(devices)


def test_without_distutils_gputil_gives_way_to_nvidia_ml_py(tmp_path):
    """In a process of its own, with the import failing as it does in Python 3.12 without setuptools."""
    fake_nvidia_smi(tmp_path, f"echo '{t4()}'")
    (tmp_path / "pynvml.py").write_text(
        textwrap.dedent(
            """
            from types import SimpleNamespace
            class NVMLError(Exception): pass
            def nvmlInit(): pass
            def nvmlDeviceGetCount(): return 2
            def nvmlDeviceGetHandleByIndex(index): return index
            def nvmlDeviceGetName(handle): return f"card {handle}"
            def nvmlDeviceGetMemoryInfo(handle): return SimpleNamespace(free=6 * 2**20, used=2 * 2**20, total=8 * 2**20)
            def nvmlDeviceGetUtilizationRates(handle):
                if handle == 1:
                    raise NVMLError("Not Supported")
                return SimpleNamespace(gpu=50)
            """
        )
    )
    script = """
        import sys
        class Blocker:
            def find_spec(self, name, path=None, target=None):
                if name == "distutils":
                    raise ModuleNotFoundError("No module named 'distutils'")
        sys.meta_path.insert(0, Blocker())
        sys.modules.pop("distutils", None)
        from utils.gpu import gpu_usage
        print(gpu_usage())
    """
    root = Path(__file__).parent.parent
    environment = os.environ | {
        "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": f"{tmp_path}{os.pathsep}{root}",
    }
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.stderr == ""
    rows = [line.split() for line in done.stdout.splitlines()[1:]]
    sizes = ["6", "MiB", "2", "MiB", "8", "MiB"]
    assert rows == [["card", "0", *sizes, "50%"], ["card", "1", *sizes, "N/A"]]


def test_track_memory_sees_a_block_of_200_mb_and_what_was_released_before():
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with track_memory() as first:
        block = torch.ones(50_000_000, device=device)
        time.sleep(0.02)
        del block
    with track_memory() as second:
        pass
    assert 190e6 < first.peak_bytes < 230e6
    assert second.peak_bytes < 20e6
    assert str(first).startswith(f"{first.peak_bytes / MIB:.1f} MiB (")


def test_track_memory_does_not_count_what_was_there_before():
    kept = torch.ones(50_000_000)
    with track_memory() as peak:
        kept.sum()
    assert peak.peak_bytes < 50e6


def test_track_memory_lets_errors_through_and_still_measures():
    with pytest.raises(KeyError, match="mine"), track_memory() as peak:
        block = torch.ones(25_000_000, device="cuda" if torch.cuda.is_available() else "cpu")
        time.sleep(0.02)
        raise KeyError("mine", block.shape)
    assert peak.peak_bytes > 90e6


def test_track_memory_on_a_gpu_takes_the_allocators_maximum_above_the_start(monkeypatch):
    readings = iter([100 * MIB, 350 * MIB])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: None)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: next(readings))
    with track_memory() as peak:
        time.sleep(0.02)
    assert str(peak) == "250.0 MiB (tensors on the GPU)"


def test_benchmark_measures_a_sleep_of_5_ms():
    timing = benchmark(lambda: time.sleep(0.005), seconds=0.2)
    assert 0.005 <= timing.median < 0.01
    assert timing.repeats >= 10


def test_benchmark_does_not_count_slow_first_runs():
    durations = iter([0.1, 0.1])
    calls = []

    def function():
        calls.append(time.sleep(next(durations, 0.001)))

    timing = benchmark(function, seconds=0.04, min_repeats=5)
    assert timing.repeats == len(calls) - 2
    assert timing.median + timing.iqr < 0.05


def test_one_outlier_moves_neither_median_nor_spread():
    durations = iter([0.002] * 6 + [0.3])
    timing = benchmark(lambda: time.sleep(next(durations, 0.002)), seconds=0, min_repeats=11)
    assert timing.repeats == 11
    assert timing.median < 0.02
    assert timing.iqr < 0.02


def test_the_clock_waits_for_the_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: time.sleep(0.005))
    assert benchmark(lambda: None, seconds=0, min_repeats=3).median >= 0.005


def test_timings_read_well():
    assert str(Timing(0.0123, 0.0008, 10)) == "12.3 ms (± 0.4)"
    assert str(Timing(4.56e-5, 2e-6, 10)) == "45.6 µs (± 1.0)"
    assert str(Timing(1.5, 0.1, 10)) == "1,500.0 ms (± 50.0)"
