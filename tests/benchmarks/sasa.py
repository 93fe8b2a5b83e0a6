"""Local attention over 7x7 neighbours of 56x56x256, forward and backward: ours against plain unfolding, one thread.

    python -m tests.benchmarks.sasa [--side 56] [--channels 256] [--heads 8] [--batch 1] [--repeats 5] [--device cpu]

Each line is a variant of the attention; peer and ours are timed in turns, so that other load on the machine hits all
alike; processor time, medians, and the peak of memory that each holds beyond its input. The *limit* of `dot` is its
multiplications alone (forward 2 products, backward 4) as dense matrix products of the same count; that of `per-channel`
its exponentials alone, once forward and once backward. `einsum` is the unfolding with a matrix product for each pixel
instead of a sum of products. With `--device cuda` times are of the clock, and memory is what torch has allocated there.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import statistics
import threading
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from trainables.networks.sasa import ATTENTION, LocalAttention

Attention = Callable[[Tensor, Tensor, Tensor, LocalAttention], Tensor]


def unfolded(x: Tensor, kernel: int, heads: int) -> Tensor:
    """[N, C, H, W] -> the neighbours of each pixel [N, heads, C / heads, kernel, kernel, H x W], zero off the map."""
    n, channels, height, width = x.shape
    return F.unfold(x, kernel, padding=kernel // 2).view(n, heads, channels // heads, kernel, kernel, height * width)


def offsets(layer: LocalAttention, heads: int) -> Tensor:
    """[heads, C / heads, kernel, kernel]: rows for the first half of each head's channels, columns for the second."""
    kernel = layer.rows.shape[1]
    rows = layer.rows.view(heads, -1, kernel, 1).expand(-1, -1, -1, kernel)
    columns = layer.columns.view(heads, -1, 1, kernel).expand(-1, -1, kernel, -1)
    return torch.cat([rows, columns], dim=1)


def unfold_dot(query: Tensor, key: Tensor, value: Tensor, layer: LocalAttention) -> Tensor:
    """As the paper writes it: q . (k + r) over the unfolded neighbours, softmax, weighted sum."""
    kernel, heads = layer.rows.shape[1], layer.heads
    keys = unfolded(key, kernel, heads) + offsets(layer, heads)[..., None]
    values = unfolded(value, kernel, heads)
    logits = (query.reshape(*keys.shape[:3], 1, 1, -1) * keys).sum(dim=2, keepdim=True)
    weights = logits.flatten(3, 4).softmax(dim=3)
    return (weights * values.flatten(3, 4)).sum(dim=3).view_as(query)


def einsum_dot(query: Tensor, key: Tensor, value: Tensor, layer: LocalAttention) -> Tensor:
    """The same sums by `einsum`."""
    kernel, heads = layer.rows.shape[1], layer.heads
    keys = (unfolded(key, kernel, heads) + offsets(layer, heads)[..., None]).flatten(3, 4)
    values = unfolded(value, kernel, heads).flatten(3, 4)
    weights = torch.einsum("nhcp,nhckp->nhkp", query.reshape(*keys.shape[:3], -1), keys).softmax(dim=2)
    return torch.einsum("nhkp,nhckp->nhcp", weights, values).reshape(query.shape)


def unfold_per_channel(query: Tensor, key: Tensor, value: Tensor, layer: LocalAttention) -> Tensor:
    """As the code of [sasa] computes it: a softmax over the neighbours for each channel of q * (k + r)."""
    kernel = layer.rows.shape[1]
    keys = unfolded(key, kernel, 1) + offsets(layer, 1)[..., None]
    weights = (query.reshape(*keys.shape[:3], 1, 1, -1) * keys).flatten(3, 4).softmax(dim=3)
    return (weights * unfolded(value, kernel, 1).flatten(3, 4)).sum(dim=3).view_as(query)


PEERS: dict[str, dict[str, Attention]] = {
    "dot": {"unfold": unfold_dot, "einsum": einsum_dot},
    "per-channel": {"unfold": unfold_per_channel},
}


def limit(
    variant: str, shape: tuple[int, ...], kernel: int, heads: int, device: torch.device
) -> Callable[[bool], object]:
    """What no implementation can do without, as a function of whether there is a backward pass."""
    n, channels, height, width = shape
    if variant == "per-channel":
        logits = torch.rand(kernel, n * channels * height * width // 8, device=device) - 1
        out = torch.empty_like(logits)
        return lambda backward: [torch.exp(logits, out=out) for _ in range(8 * kernel * (2 if backward else 1))]
    # 48 queries that share 49 keys: as many multiplications a query as its window has.
    groups = n * heads * -(-height * width // 48)
    query, key = (torch.rand(groups, count, channels // heads, device=device) for count in (48, kernel * kernel))
    logits = torch.empty(groups, 48, kernel * kernel, device=device)
    return lambda backward: [torch.bmm(query, key.mT, out=logits) for _ in range(6 if backward else 2)]


def seconds(run: Callable[[], object], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        began = time.perf_counter()
        run()
        torch.cuda.synchronize(device)
        return time.perf_counter() - began
    started = time.process_time()
    run()
    return time.process_time() - started


def peak_megabytes(run: Callable[[], object], device: torch.device) -> float:
    """The most resident memory during `run` beyond that at its start, sampled every millisecond; of a GPU its own."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        held = torch.cuda.memory_allocated(device)
        run()
        return (torch.cuda.max_memory_allocated(device) - held) / 2**20
    status, most, stop = Path("/proc/self/statm"), 0, threading.Event()

    def resident() -> int:
        return int(status.read_text().split()[1]) * 4096

    def watch() -> None:
        nonlocal most
        while not stop.wait(0.001):
            most = max(most, resident())

    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what earlier runs left to the allocator counts again
    before = resident()
    watcher = threading.Thread(target=watch)
    watcher.start()
    run()
    stop.set()
    watcher.join()
    return max(0, most - before) / 2**20


def trial(attend: Attention, inputs: list[Tensor], layer: LocalAttention, backward: bool) -> Callable[[], object]:
    """One pass; the inputs are laid out as the peer likes them, NCHW, or as the network has them, channels last."""
    weights = [layer.rows, layer.columns]

    def run() -> object:
        with torch.set_grad_enabled(backward):
            result = attend(*inputs, layer)
            return torch.autograd.grad(result, inputs + weights, torch.ones_like(result)) if backward else result

    return run


def report(variant: str, options: argparse.Namespace) -> None:
    device, shape = torch.device(options.device), (options.batch, options.channels, options.side, options.side)
    layer = LocalAttention(8, options.channels, heads=options.heads, kernel=options.kernel, attention=variant)
    layer.to(device)
    planar = [torch.randn(shape, device=device).requires_grad_() for _ in range(3)]
    ours_like = torch.channels_last if device.type == "cpu" else torch.contiguous_format  # as `networks.place` has it
    last = [x.detach().to(memory_format=ours_like).requires_grad_() for x in planar]
    floor = limit(variant, shape, options.kernel, options.heads, device)
    digits = 0 if device.type == "cpu" else 2
    for backward in (False, True):
        ours = trial(ATTENTION[variant], last, layer, backward)
        runs = {name: trial(peer, planar, layer, backward) for name, peer in PEERS[variant].items()}
        runs |= {"ours": ours, "limit": lambda b=backward: floor(b)}
        memory = {name: peak_megabytes(run, device) for name, run in runs.items() if name != "limit"}
        times: dict[str, list[float]] = {name: [] for name in runs}
        for _ in range(options.repeats):
            for name, run in runs.items():
                times[name].append(seconds(run, device))
        took = {name: 1e3 * statistics.median(values) for name, values in times.items()}
        for name in PEERS[variant]:
            print(
                f"{variant} {'forward+backward' if backward else 'forward'} | {name} {took[name]:.{digits}f} ms, "
                f"{memory[name]:.0f} MB | {took['ours']:.{digits}f} ms, {memory['ours']:.0f} MB | "
                f"{took['limit']:.{digits}f} ms | "
                f"{took[name] / took['ours']:.1f}"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    defaults = {"side": 56, "channels": 256, "heads": 8, "kernel": 7, "batch": 1, "repeats": 5}
    for name, default in defaults.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    gpu = torch.cuda.get_device_name(options.device) if options.device.startswith("cuda") else "CPU"
    print(f"torch {torch.__version__}, {gpu}; batch {options.batch}, 1 thread, medians of {options.repeats}")
    print("variant | peer | ours | limit | ratio")
    for variant in PEERS:
        report(variant, options)


if __name__ == "__main__":
    main()
