"""What `collect` and `report` share: the options that say which plans of which stores, and reading them."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from orchestrator.command_line import WRONG_REQUEST
from orchestrator.passwords import without_passwords

if TYPE_CHECKING:
    from orchestrator.record.store import Store
    from orchestrator.results.collected import Collected


def add_options(parser: argparse.ArgumentParser) -> None:
    """GRID, --plan, --profile, --store, --from, --tracking-uri, --experiment and --json."""
    parser.add_argument("grid", metavar="GRID", help="a built-in name or the YAML file it was run from")
    parser.add_argument(
        "--plan", metavar="ID", action="append", help="which plan (default: the newest); twice: compare them"
    )
    parser.add_argument("--profile", metavar="NAME", help="the newest plan of this profile")
    parser.add_argument("--store", metavar="URI", action="append", help="default ./runs; twice: compare what they hold")
    parser.add_argument(
        "--from", dest="source", choices=("store", "mlflow"), default="store",
        help="read the results from the store (default), or from MLflow; the plan comes from the store",
    )  # fmt: skip
    parser.add_argument("--tracking-uri", metavar="URI", help="MLflow (default: as run_grid)")
    parser.add_argument(
        "--experiment", default="transfergrid", metavar="NAME", help="MLflow experiment (default %(default)s)"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout, everything human on stderr")


def answered(act: Callable[[argparse.Namespace], int], args: argparse.Namespace) -> int:
    """The exit code of `act`; a request that cannot be met is one message, without passwords."""
    from orchestrator.record.cell_reader import many_objects
    from orchestrator.record.mlflow_connection import TrackingError
    from orchestrator.record.store import StoreError
    from orchestrator.results import ResultsError

    try:
        with many_objects():
            return act(args)
    except (StoreError, TrackingError, ResultsError) as error:
        print(f"error: {without_passwords(str(error))}", file=sys.stderr)
        return WRONG_REQUEST


def read(args: argparse.Namespace) -> list[Collected]:
    """The results of all plans that the options name, the first of them first.

    Raises:
        StoreError, TrackingError, ResultsError: the request cannot be met; the text is the message for the user.
    """
    from orchestrator.record.store import open_store
    from orchestrator.results import ResultsError
    from orchestrator.results.collected import collected

    name = _grid_name(args.grid)
    found = []
    for uri, plan_id in _asked(args):
        store = open_store(uri)
        plan = _settled(_plan(store, name, plan_id, args.profile), store)
        found.append(collected(store, plan, tracking_uri(args, store), args.experiment, args.source))
    same = [c.plan["plan"] for c in found]
    if len({(c.store.address, c.plan["plan"]) for c in found}) < len(found):
        raise ResultsError(f"plan {same[0]} of one store is named twice; expected different plans or stores to compare")
    return found


def tracking_uri(args: argparse.Namespace, store: Store) -> str:
    """The MLflow that belongs to a store, unless another one is named.

    Raises:
        TrackingError: its address is none.
    """
    from orchestrator.record.mlflow_connection import tracking_address

    return tracking_address(args.tracking_uri, store.folder)


def _asked(args: argparse.Namespace) -> Iterator[tuple[str, str | None]]:
    """Store and plan of each set of results; one store serves for several plans, and the other way round."""
    from orchestrator.results import ResultsError

    stores, plans = args.store or ["./runs"], args.plan or [None]
    if len(stores) > 1 and len(plans) > 1 and len(stores) != len(plans):
        raise ResultsError(
            f"{len(stores)} times --store and {len(plans)} times --plan; expected one of either, or as many of both"
        )
    count = max(len(stores), len(plans))
    stores, plans = stores * (count if len(stores) == 1 else 1), plans * (count if len(plans) == 1 else 1)
    yield from zip(stores, plans, strict=True)


def _plan(store: Store, grid: str, plan_id: str | None, profile: str | None) -> dict[str, Any]:
    from orchestrator.record.cell_reader import load_plan, newest_of_profile

    if plan_id is None and profile is not None and store.plans(grid):
        plan_id = newest_of_profile(store, grid, profile)
    return load_plan(store, grid, plan_id)  # without any plan it says which grids there are


def _settled(plan: dict[str, Any], store: Store) -> Mapping[str, Any]:
    """With the winners of studies that have ended since; only then planning is imported, which takes a moment."""
    if not plan.get("studies"):
        return plan
    from orchestrator.execute.trials import settled

    return settled(plan, store)


def _grid_name(grid: str) -> str:
    if not grid.endswith((".yaml", ".yml")):
        return grid
    from orchestrator.grid.load import grid_name

    return grid_name(grid)
