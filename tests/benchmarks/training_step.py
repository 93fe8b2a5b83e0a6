"""Training steps: the stages' own functions beside the bare model and beside what others would write.

    python -m tests.benchmarks.training_step [--device cpu|cuda] [--network conrec-unet] [--width 8] [--size 64]
        [--batch 16] [--precision float32|bfloat16] [--threads 1] [--only finetune simclr ...] [--workers 0 2]
        [--repeats 3] [--seconds 1] [--out FILE]

Needs torch, torchvision, numpy, pillow and scipy; lightly, byol-pytorch and segmentation-models-pytorch where they are
there. All train the same modules by Adam in the same memory layout on equal photographs, JPEG files of twice the size
of what the network sees (real ones are larger, which costs those who decode them again in every epoch). One thread, as
where each core has a cell of its own; the workers of a DataLoader come on top. With `--threads 2 --workers 2` all have
two cores. In each repeat all take their turn with as many steps, so that other load on the machine hits all alike;
figures are medians, with the least and the largest in brackets. With `--precision bfloat16` all networks compute in it,
those of peers by an autocast around their model and loss, as their users would write it. Images per second:

    limit      model, loss and optimiser on ready-made views on the device: nothing is read, augmented or logged
    augmented  the same with our augmentation of a batch of decoded images that lies on the device
    ours       `finetune` or `pretrain` through a Context: order of the images, reading, augmentation, seeds, the look
               for a loss that is not finite, progress; and the time of checkpoints as often as they are due (every
               30 seconds). Start-up and the points of the curve are not in it, but in columns of their own:
    start      seconds before the first step where the pictures are decoded already (whoever is first on a node decodes
               them: `tests.benchmarks.data_startup`)
    saved      seconds of one checkpoint
    point      seconds of one point of the curve; and its share of the time at the paper's 500 (finetuning: 50) steps
               between two points of 128 (64) images
    peer       the library's own loop, its transforms in a DataLoader of 0 or more worker processes
    cores      processor seconds per second, workers included: what else could have run beside it
    per core   the ratio before it by processor time, workers included: what counts where every core has a cell of its
               own, and what other load on the machine changes least; on a GPU it says little

Ratios are of measurements in one repeat. Of peers: 1 and less says that ours is not faster. BYOL of byol-pytorch draws
one augmentation for all images of a batch. No library has reconstruction or ConRec: `torch` reads and augments there by
torchvision, and masks and losses are ours.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from tests.benchmarks.common import Report, header, ratios, spread
from tests.benchmarks.training_clock import Timing, time_steps
from tests.benchmarks.training_peers import PEERS
from tests.benchmarks.training_work import WORKS, Setup, bare_loss, new_model, time_stage, write_photos
from trainables.settings import BackendSettings
from trainables.training import use_backend

PACKAGES = ("torch", "torchvision", "segmentation-models-pytorch", "lightly", "byol-pytorch", "numpy", "pillow")
PHOTOS = 1280  # so that a tenth of them is what the paper validates
CHECKPOINT_SECONDS = 30.0
Run = Callable[[int], Timing]


@dataclass
class Found:
    """Timings of a contender, one for each repeat."""

    batch: int
    timings: list[Timing] = field(default_factory=list)

    @property
    def rates(self) -> list[float]:
        """Images per second; of ours with its checkpoints."""
        return [
            self.batch * t.steps / t.seconds * (1 - t.parts.get("checkpoint", 0.0) / CHECKPOINT_SECONDS)
            for t in self.timings
        ]

    @property
    def per_core(self) -> list[float]:
        """Images per second of processor time."""
        return [rate * t.seconds / t.cpu for rate, t in zip(self.rates, self.timings, strict=True)]

    @property
    def cores(self) -> float:
        return statistics.median(t.cpu / t.seconds for t in self.timings)

    def part(self, name: str) -> float:
        return statistics.median(t.parts[name] for t in self.timings)


def contenders(setup: Setup, work: str, workers: list[int], absent: set[str]) -> dict[str, Run]:
    """Each by its name, as a function of the number of steps. All train equally many parameters."""
    runs: dict[str, Run] = {}
    counts: dict[str, int] = {}
    for name in ("limit", "augmented"):
        model = new_model(setup, work)
        counts[name] = model.parameters
        step = partial(model.step, bare_loss(setup, work, model.module, augmented=name == "augmented"))
        runs[name] = partial(time_steps, step, device=setup.device)
    runs["ours"] = lambda steps: _ours(setup, work, steps)
    for package, make in PEERS[work]:
        for number in workers:
            try:
                with _autocast(setup):  # byol-pytorch's learner tries itself out
                    peer = make(setup, work, number)
            except ImportError:
                absent.add(package)
                continue
            name = f"{package}, {number} workers"
            counts[name] = peer.model.parameters
            peer = dataclasses.replace(peer, loss_of=partial(_within, _autocast(setup), peer.loss_of))
            runs[name] = partial(time_steps, peer.step, device=setup.device)
    assert len(set(counts.values())) == 1, f"{work}: not the same model: {counts}"
    return runs


def _autocast(setup: Setup) -> torch.autocast:
    """For what is a peer's own; without effect where networks compute in float32."""
    wanted = setup.backend.get("precision") == "bfloat16"
    return torch.autocast(setup.device.type, dtype=torch.bfloat16, enabled=wanted)


def _within(precision: torch.autocast, loss_of: Callable[[], Tensor]) -> Tensor:
    with precision:
        return loss_of()


def _ours(setup: Setup, work: str, steps: int) -> Timing:
    timing, weights = time_stage(setup, work, steps)
    _same_model(new_model(setup, work).module.state_dict(), weights)
    return timing


def _same_model(expected: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> None:
    """What the stage hands on has the shapes of the model that the others train, but for targets and names."""
    kept = sorted(tuple(t.shape) for n, t in expected.items() if not n.startswith("target."))
    assert kept == sorted(tuple(t.shape) for t in weights.values()), "the stage trains another model"


def measure(setup: Setup, work: str, options: argparse.Namespace, absent: set[str]) -> dict[str, Found]:
    runs = contenders(setup, work, options.workers, absent)
    once = runs["limit"](2)
    steps = max(10, round(options.seconds * once.steps / once.seconds))
    runs["ours"](1)  # decodes the pictures
    found = {name: Found(setup.batch) for name in runs}
    for _ in range(options.repeats):
        for name, run in runs.items():
            found[name].timings.append(run(steps))
    assert {t.steps for one in found.values() for t in one.timings} == {steps}
    return found


def own_row(work: str, found: dict[str, Found], report_every: int) -> list[str]:
    several = [found[name] for name in ("limit", "augmented", "ours")]
    limit, augmented, ours = (one.rates for one in several)
    point = found["ours"].part("point")
    each = found["ours"].batch / statistics.median(ours)
    return [
        *(work, spread(limit, 0), spread(augmented, 0), spread(ours, 0)),
        *(spread(ratios(augmented, limit)), spread(ratios(ours, limit))),
        spread(ratios(several[2].per_core, several[0].per_core)),
        *(f"{found['ours'].part(part):.2f}" for part in ("start", "checkpoint")),
        f"{point:.2f}, {point / (point + report_every * each):.1%}",
    ]


def peer_rows(work: str, found: dict[str, Found]) -> list[list[str]]:
    ours, limit = found["ours"], found["limit"]
    return [
        [
            *(work, name, spread(one.rates, 0), f"{one.cores:.1f}", spread(ours.rates, 0), f"{ours.cores:.1f}"),
            *(spread(limit.rates, 0), spread(ratios(one.rates, limit.rates)), spread(ratios(ours.rates, one.rates))),
            spread(ratios(ours.per_core, one.per_core)),
        ]
        for name, one in found.items()
        if name not in ("limit", "augmented", "ours")
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--network", default="conrec-unet")
    for name, default in {"width": 8, "size": 64, "batch": 16, "threads": 1, "repeats": 3, "photos": PHOTOS}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32", help="of the networks")
    parser.add_argument("--seconds", type=float, default=1.0, help="of each measurement, at the speed of the limit")
    parser.add_argument("--only", nargs="+", choices=WORKS, default=list(WORKS))
    parser.add_argument("--workers", type=int, nargs="*", default=[0, 2], help="of the peers' DataLoaders")
    parser.add_argument("--out", type=Path, help="write the report there too")
    options = parser.parse_args()
    use_backend(BackendSettings(threads=options.threads))  # all contenders compute as stages do
    device = torch.device(options.device)
    report = Report(options.out)
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    report.line(header("tests.benchmarks.training_step", PACKAGES, gpu))
    report.line(
        f"# {options.network} {options.width}, {options.size}x{options.size}, batch {options.batch}, "
        f"{options.precision}, {options.threads} threads, {options.repeats} repeats; images per second"
    )
    report.row(
        *("work", "limit", "augmented", "ours", "augmented / limit", "ours / limit", "per core"),
        *("start s", "saved s", "point s"),
    )
    rows: list[list[str]] = []
    absent: set[str] = set()
    with tempfile.TemporaryDirectory(prefix="training-step-") as folder:
        write_photos(Path(folder), options.photos, 2 * options.size)
        network = {"name": options.network, "width": options.width}
        backend = {"precision": options.precision}
        setup = Setup(Path(folder), network, options.size, options.batch, device, options.threads, backend)
        for work in options.only:
            found = measure(setup, work, options, absent)
            report.row(*own_row(work, found, setup.report_every(work)))
            rows += peer_rows(work, found)
    report.line()
    report.row("work", "peer", "peer", "cores", "ours", "cores", "limit", "peer / limit", "ours / peer", "per core")
    for row in rows:
        report.row(*row)
    for package in sorted(absent):
        report.line(f"{package}: not installed")


if __name__ == "__main__":
    main()
