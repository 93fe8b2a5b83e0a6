"""What runs on a GPU only, on none: torch's own Python code runs, and only its calls into CUDA are stubs."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from orchestrator.execute.attempt import device_lost, is_out_of_memory
from orchestrator.execute.context import choose_device
from orchestrator.execute.device_memory import device_facts, is_device_full, is_device_lost, limit_device_memory
from orchestrator.execute.resources import CONTEXT_BYTES, allocator_fraction

GB = 2**30
CALLS = ("setMemoryFraction", "resetPeakMemoryStats", "emptyCache", "synchronize")
ASSERTED = "CUDA error: device-side assert triggered\nCUDA kernel errors might be asynchronously reported at some other"
FULL = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    torch.AcceleratorError("CUDA error: out of memory\nSearch for `cudaErrorMemoryAllocation'"),
    RuntimeError("CUDA driver error: out of memory"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
    RuntimeError("Unable to find a valid cuDNN algorithm to run convolution"),
    RuntimeError("GET was unable to find an engine to execute this computation"),
]
OTHER = [
    RuntimeError("mat1 and mat2 shapes cannot be multiplied (2x3 and 4x5)"),
    RuntimeError("cuDNN error: CUDNN_STATUS_BAD_PARAM"),
    ValueError("CUDA error: out of memory"),
]


class Gpus:
    """Two of them, the second one current. Notes the calls into CUDA; `lost`: what each raises from now on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls = list[tuple[Any, ...]]()
        self.lost: Exception | None = None
        for module in (torch.cuda, torch.cuda.memory):
            monkeypatch.setattr(module, "_lazy_init", lambda: None)
            monkeypatch.setattr(module, "is_initialized", lambda: True)
        for name in CALLS:
            self._stub(monkeypatch, name, None)
        self._stub(monkeypatch, "getDevice", 1)
        monkeypatch.setattr(torch.cuda, "_exchange_device", lambda number: 1)
        monkeypatch.setattr(torch.cuda, "_maybe_exchange_device", lambda number: 1)
        self._stub(monkeypatch, "memoryStats", {"reserved_bytes": {"all": {"peak": 3 * GB}}})
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
        properties = SimpleNamespace(name="a made-up GPU", total_memory=80 * GB)
        monkeypatch.setattr(torch.cuda, "_get_device_properties", lambda number: properties, raising=False)

    def _stub(self, monkeypatch: pytest.MonkeyPatch, name: str, answer: Any) -> None:
        def call(*given: Any) -> Any:
            if self.lost is not None:
                raise self.lost
            self.calls.append((name, *given))
            return answer

        monkeypatch.setattr(torch._C, f"_cuda_{name}", call, raising=False)

    def of(self, name: str) -> list[list[Any]]:
        return [given for called, *given in self.calls if called == name]


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gpus]:
    yield Gpus(monkeypatch)


@pytest.mark.parametrize(("name", "number"), [("cuda", 1), ("cuda:0", 0), ("cuda:1", 1)])
@pytest.mark.parametrize("share", [0.0, 0.125, 1.0, 2.0])
def test_a_share_caps_the_device_that_is_meant(gpus: Gpus, name: str, number: int, share: float) -> None:
    limit_device_memory(torch.device(name), share)
    assert gpus.of("setMemoryFraction") == [[allocator_fraction(share, 80 * GB), number]]
    assert gpus.of("resetPeakMemoryStats") == [[number]] and gpus.of("emptyCache") == [[]]


@pytest.mark.parametrize(("name", "number"), [("cuda", 1), ("cuda:0", 0)])
def test_the_facts_are_those_of_the_device_that_is_meant(gpus: Gpus, name: str, number: int) -> None:
    facts = {"device": "a made-up GPU", "device_bytes": 80 * GB, "peak_device_bytes": 3 * GB + CONTEXT_BYTES}
    assert device_facts(torch.device(name)) == facts
    assert gpus.of("memoryStats") == [[number]]


def test_on_a_cpu_nothing_is_asked(gpus: Gpus) -> None:
    limit_device_memory(torch.device("cpu"), 0.5)
    assert device_facts(torch.device("cpu")) == {} and gpus.calls == []


@pytest.mark.parametrize(("share", "device"), [(None, "cuda"), (0.25, "cuda"), (1.0, "cuda"), (0.0, "cpu")])
def test_who_was_given_no_gpu_takes_none_of_those_it_sees(
    monkeypatch: pytest.MonkeyPatch, share: float | None, device: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert choose_device("auto", share) == torch.device(device)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto", share) == torch.device("cpu")
    assert choose_device("cuda:1", share) == torch.device("cuda:1")


@pytest.mark.parametrize("error", FULL, ids=lambda error: str(error)[:40])
def test_whoever_tells_of_a_full_device_is_understood(gpus: Gpus, error: Exception) -> None:
    assert is_device_full(error) and is_out_of_memory(error) and not is_device_lost(error)


@pytest.mark.parametrize("error", OTHER, ids=lambda error: str(error)[:40])
def test_other_faults_are_neither_of_memory_nor_of_the_device(gpus: Gpus, error: Exception) -> None:
    assert not is_device_full(error) and not is_out_of_memory(error) and not is_device_lost(error)


@pytest.mark.parametrize(
    "text", [ASSERTED, "CUDA error: an illegal memory access was encountered", "CUDA error: uncorrectable ECC error"]
)
def test_other_faults_of_cuda_lose_the_device(text: str) -> None:
    assert is_device_lost(torch.AcceleratorError(text))


def test_a_library_that_fails_after_the_device_was_lost_is_found_out(gpus: Gpus) -> None:
    told = RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm(...)`")
    assert not is_device_lost(told) and len(gpus.of("synchronize")) == 1
    gpus.lost = torch.AcceleratorError(ASSERTED)
    assert is_device_lost(told)
    assert is_device_lost(RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED"))
    assert not is_device_lost(torch.OutOfMemoryError("made up"))
    gpus.lost = torch.AcceleratorError("CUDA error: out of memory")
    assert not is_device_lost(told)


def test_what_a_process_dies_of_is_one_line_and_travels() -> None:
    error = device_lost(torch.AcceleratorError(ASSERTED))
    told = str(pickle.loads(pickle.dumps(error)))
    assert told == str(error) and len(told.splitlines()) == 1
    assert "AcceleratorError: CUDA error: device-side assert triggered (on host" in told
    assert "AcceleratorError" in str(device_lost(torch.AcceleratorError()))
