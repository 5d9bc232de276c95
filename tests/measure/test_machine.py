"""What is said about a machine: slugs, scrubbed text, ceilings, allocator, energy counters."""

import getpass
import subprocess
import sys

import pytest
import torch

from bench import failures, hardware, rapl, settings
from bench.environment import environment, hardware_id, usable_cpus
from bench.peaks import KNOWN_PEAKS


@pytest.mark.parametrize(
    ("device", "name", "cpus", "memory", "slug"),
    [
        ("cpu", "AMD EPYC", 2, 25276518400, "amd-epyc-2c-24g"),
        (
            "cpu",
            "Intel(R) Xeon(R) Platinum 8480C CPU @ 2.00GHz",
            8,
            64 << 30,
            "intel-xeon-platinum-8480c-8c-64g",
        ),
        ("cpu", "AMD EPYC 7763 64-Core Processor", 4, 16 << 30, "amd-epyc-7763-4c-16g"),
        ("cuda", "NVIDIA H200", 16, 150_109_880_320, "nvidia-h200-140g"),
        ("cuda", "NVIDIA A100-SXM4-80GB", 16, 84_974_239_744, "nvidia-a100-sxm4-80g"),
        ("cuda", "Tesla T4", 2, 15_828_320_256, "nvidia-tesla-t4-15g"),
        ("cuda", "NVIDIA H100 MIG 1g.10gb", 2, 10_468_982_784, "nvidia-h100-mig-1g.10gb-10g"),
    ],
)
def test_hardware_ids(device, name, cpus, memory, slug):
    assert hardware_id(device, name, cpus, memory) == slug


def test_devices_that_train_together_have_a_hardware_id_of_their_own():
    assert hardware_id("cuda", "NVIDIA H200", 16, 150_109_880_320, 8) == "nvidia-h200-140g-x8"
    assert hardware_id("cpu", "AMD EPYC", 2, 25276518400, 2) == "amd-epyc-2c-24g-x2"
    alone, together = environment("cpu", 1), environment("cpu", 1, 2)
    assert together.hardware_id == f"{alone.hardware_id}-x2"
    assert together.settings == alone.settings | {"devices_together": 2}


def test_this_machine_is_described():
    found = environment("cpu", 1)
    assert found.cpu_count == usable_cpus()
    assert found.torch == torch.__version__
    assert found.settings["float32_matmul_precision"] == torch.get_float32_matmul_precision()
    assert found.settings["transparent_hugepages"] in (None, "always", "madvise", "never")


def test_settings_are_set_and_read_back():
    threads, precision = torch.get_num_threads(), torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        settings.apply("cpu", 1)
        assert torch.get_num_threads() == 1
        assert settings.read()["float32_matmul_precision"] == "highest"
    finally:
        torch.set_num_threads(threads)
        torch.set_float32_matmul_precision(precision)


def test_published_text_has_no_paths_control_characters_tags_or_own_names(monkeypatch):
    monkeypatch.setattr(getpass, "getuser", lambda: "jdoe42")
    text = (
        "\x1b[31merror\x1b[0m in /home/jdoe42/a/b.py:3 by jdoe42 <tag>\x00 C:\\Users\\x\\y.py 1/2"
    )
    assert failures.published(text) == "error in b.py:3 by (private) (tag)  y.py 1/2"
    assert len(failures.published("word " * 10_000).splitlines()) == 1
    assert len(failures.published("x\n" * 100).splitlines()) <= 12


@pytest.mark.parametrize(
    ("message", "requested"),
    [
        ("CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has", int(2.5 * 2**30)),
        ("DefaultCPUAllocator: can't allocate memory: you tried to allocate 64 bytes.", 64),
        ("std::bad_alloc", None),
    ],
)
def test_allocation_failures_are_recognised_with_their_size(message, requested):
    failure = RuntimeError(message)
    assert failures.is_out_of_memory(failure)
    assert failures.out_of_memory(failure, 100).requested_bytes == requested
    assert not failures.is_out_of_memory(RuntimeError("shapes do not match"))
    assert not failures.is_out_of_memory(ValueError(message))


def test_ceilings_are_plausible_and_complete(monkeypatch):
    monkeypatch.setattr(hardware, "_LEAST_S", 0.001)
    monkeypatch.setattr(hardware, "_MATMUL_SIZE", {"cpu": 256})
    monkeypatch.setattr(hardware, "_VECTOR_ELEMENTS", {"cpu": 1 << 12})
    found = {ceiling.name: ceiling for ceiling in hardware.ceilings("cpu")}
    assert set(found) == {
        "matmul_float32",
        "matmul_bfloat16",
        "matmul_float16",
        "copy_bandwidth",
        "exp_rate",
        "call_overhead",
    }
    assert all(len(ceiling.samples) == 5 for ceiling in found.values())
    assert 1e-8 < min(found["call_overhead"].samples) < 1e-3
    assert max(found["exp_rate"].samples) > 1e6


def test_the_exp_rate_of_a_gpu_is_not_its_bandwidth(monkeypatch):
    """Counted are the exponentials of the chain, not the numbers that were read."""
    asked = []
    monkeypatch.setattr(hardware, "normal", lambda _name, size, device: torch.zeros(size))
    monkeypatch.setattr(hardware, "_EXP_ELEMENTS", {"cuda": 100})
    monkeypatch.setattr(hardware, "_seconds", lambda _device, run: [run() is None or 0.5] * 5)
    monkeypatch.setattr(
        hardware.jiterator, "_create_jit_fn", lambda code: asked.append(code) or (lambda _x: 1)
    )
    (found,) = hardware._exp_on_cuda()
    assert found.samples == pytest.approx([64 * 100 / 0.5] * 5)
    assert "i < 64" in asked[0]
    assert "exp(-x)" in asked[0]


def test_without_a_compiler_at_run_time_there_is_no_exp_rate(monkeypatch):
    def refuse(_code):
        raise RuntimeError("NVRTC is not there")

    monkeypatch.setattr(hardware, "normal", lambda _name, size, device: torch.zeros(size))
    monkeypatch.setattr(hardware, "_EXP_ELEMENTS", {"cuda": 100})
    monkeypatch.setattr(hardware.jiterator, "_create_jit_fn", refuse)
    assert hardware._exp_on_cuda() == ()


def test_known_peaks_name_their_source_and_are_ordered():
    for peak in KNOWN_PEAKS.values():
        assert peak.source.startswith("https://www.nvidia.com/")
        assert peak.half_flop_s > peak.float32_flop_s > peak.bandwidth_byte_s


def test_rapl_is_read_summed_and_unwrapped(tmp_path):
    for index, value in enumerate((100, 990)):
        zone = tmp_path / f"intel-rapl:{index}"
        zone.mkdir()
        (zone / "energy_uj").write_text(f"{value}\n")
        (zone / "max_energy_range_uj").write_text("1000\n")
    (tmp_path / "intel-rapl:0:0").mkdir()
    zones = rapl.packages(tmp_path)
    assert [zone.name for zone in zones] == ["intel-rapl:0", "intel-rapl:1"]
    before = rapl.read(zones)
    (zones[0] / "energy_uj").write_text("150\n")
    (zones[1] / "energy_uj").write_text("5\n")
    assert rapl.spent_j(before, rapl.read(zones)) == pytest.approx((50 + 15) * 1e-6)
    assert isinstance(rapl.packages(tmp_path / "absent"), str)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc only")
def test_pages_are_kept_by_one_policy_and_faulted_anew_by_the_other():
    program = """
import resource
from bench import allocator
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(4):
        b"x" * (64 << 20)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
cold = faults()
allocator.keep_pages()
faults()
print(cold, faults())
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    cold, warm = map(int, done.stdout.split())
    assert cold > 4 * 100, "64 MiB in huge pages are still dozens of faults a call"
    assert warm < cold / 50
