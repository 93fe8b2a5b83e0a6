"""Make the pictures of this folder again: `python docs/figures/make.py [GRID ...]`, from the root of the repository.

With `--store DIR` and `--data-root DIR` instead of those of README.md.

It runs the commands of README.md, or those of the named grids alone, and copies the pictures that stand in each
command's remark. A picture is called GRID-ANALYSIS.png, a second one of an analysis GRID-ANALYSIS-FILE.png.
"""

from __future__ import annotations

import argparse
import io
import os
import re
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

HERE = Path(__file__).resolve().parent
SECOND = ("steps",)  # files beside the one that an analysis is known by
LIMIT = 300_000  # bytes


def commands() -> list[tuple[list[str], list[str]]]:
    """(arguments of run_grid, names of the pictures), in the order of README.md."""
    variables: dict[str, str] = {}
    found = []
    for line in re.findall(r"```\n(.*?)```", (HERE / "README.md").read_text(encoding="utf-8"), re.S)[0].splitlines():
        if assigned := re.fullmatch(r'(\w+)="(.*)"', line):
            variables[assigned[1]] = assigned[2]
            continue
        command, _, pictures = line.partition("#")
        for name, value in reversed(variables.items()):  # a later one may hold an earlier one
            command = command.replace(f"${name}", value)
        if command.strip():
            found.append((shlex.split(command), pictures.split()))
    return found


def shrunk(picture: bytes) -> bytes:
    """The picture, smaller as long as it takes more than `LIMIT` bytes; in 256 colours where half its size is too much.

    Fewer colours come last, as they put steps into maps of heat and lose what is rare.
    """
    image = Image.open(io.BytesIO(picture)).convert("RGB")
    for share in (1.0, 0.9, 0.8, 0.7, 0.6, 0.5):
        sized = image.resize((round(share * image.width), round(share * image.height)), Image.Resampling.LANCZOS)
        if len(found := _png(sized)) <= LIMIT:
            return found
    return _png(sized.quantize(256))


def _png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG", optimize=True)
    return file.getvalue()


def pictures_of(grid: str, folder: Path) -> dict[str, Path]:
    """Name in this folder -> file that `collect` wrote."""
    found = {}
    for path in sorted((folder / grid / "figures").glob("*/*.png")):
        more = f"-{path.stem}" if path.stem in SECOND else ""
        found[f"{grid}-{path.parent.name}{more}.png"] = path
    return found


def make(command: list[str], wanted: list[str], environment: dict[str, str]) -> None:
    """Run one command, which may end with 1 where weights are missing, and copy its pictures."""
    grid = next(word for word in command if re.match(r"p\d-", word))
    if subprocess.run(command, env=environment, check=False).returncode not in (0, 1):
        sys.exit(f"{grid}: this command could not run: {shlex.join(command)}")
    store = command[command.index("--store") + 1]
    with tempfile.TemporaryDirectory() as folder:
        collect = ["python", "-m", "orchestrator.collect", grid, "--store", store, "--out", folder]
        subprocess.run(collect, env=environment, check=False, stdout=subprocess.DEVNULL)
        found = pictures_of(grid, Path(folder))
        for name in wanted:
            if name not in found:
                sys.exit(f"{grid}: no picture {name}; the command made {', '.join(found) or 'none'}")
            (HERE / name).write_bytes(shrunk(found[name].read_bytes()))
            print(name)


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("grids", nargs="*", metavar="GRID", help="default: all of README.md")
    parser.add_argument("--store", help="default: that of README.md")
    parser.add_argument("--data-root", help="default: that of README.md")
    asked = parser.parse_args()
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    for command, wanted in commands():
        for option, value in (("--store", asked.store), ("--data-root", asked.data_root)):
            if value and option in command:
                command[command.index(option) + 1] = value
        if not asked.grids or set(asked.grids) & set(command):
            make(command, wanted, {**os.environ, "PATH": path})


if __name__ == "__main__":
    main()
