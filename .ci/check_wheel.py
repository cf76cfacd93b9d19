"""Checks what is inside of built wheels: python3 .ci/check_wheel.py WHEEL...

Nothing of the vendor's, our libraries side by side and finding each other there, and a package
that works in a clean environment, away from the checkout.
"""

import os
import subprocess
import sys
import tempfile
import venv
import zipfile
from pathlib import Path

LIBRARIES = ("_core", "_ufuncs", "libnpublas", "libnpublas_simulator")
PRODUCT = """
import numpy as np, npublas
npublas.set_config(runtime="simulator")
a = np.arange(-64, 64, dtype=np.int8).reshape(2, 64)
with npublas.config_context(device="npu", on_fallback="error"):
    c = npublas.matmul(a, a.T, dtype=np.int32)
assert (c == a.astype(int) @ a.T.astype(int)).all(), c
"""


def check(condition: bool, message: str) -> None:
    if not condition:
        sys.exit(f"{sys.argv[0]}: {message}")


def run(*command: str | Path, cwd: str) -> str:
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)
    check(done.returncode == 0, f"{command} failed:\n{done.stdout}{done.stderr}")
    return done.stdout


def check_contents(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive, tempfile.TemporaryDirectory() as folder:
        names = archive.namelist()
        vendor = [name for name in names if "rknn" in name.lower()]
        check(not vendor, f"{wheel.name} contains {vendor}")
        check("npublas/py.typed" in names, f"{wheel.name} has no npublas/py.typed")
        check("npublas/_core.pyi" in names, f"{wheel.name} has no npublas/_core.pyi")
        for library in LIBRARIES:
            found = [n for n in names if n.startswith(f"npublas/{library}.") and n.endswith(".so")]
            check(len(found) == 1, f"{wheel.name} has {found} for npublas/{library}.*so")
            dynamic = run("readelf", "-d", archive.extract(found[0], folder), cwd=folder)
            needed = [line for line in dynamic.splitlines() if "(NEEDED)" in line]
            needs_neighbour = any("[libnpublas.so]" in line for line in needed)
            check(
                needs_neighbour == (library in ("_core", "_ufuncs")),
                f"{found[0]} of {wheel.name} links libnpublas.so: {needs_neighbour}",
            )
            check("[$ORIGIN]" in dynamic, f"{found[0]} of {wheel.name} has no $ORIGIN run path")


def check_install(wheel: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        venv.create(folder, with_pip=True)
        python = Path(folder) / "bin" / "python"
        run(python, "-m", "pip", "install", "--quiet", wheel.resolve(), cwd=folder)
        run(python, "-c", PRODUCT, cwd=folder)
        run("env", "NPUBLAS_RUNTIME=simulator", python.with_name("npublas"), "info", cwd=folder)


def main() -> None:
    wheels = [Path(name) for name in sys.argv[1:]]
    tag = f"cp{sys.version_info[0]}{sys.version_info[1]}"
    check(any(f"-{tag}-" in wheel.name for wheel in wheels), f"no wheel for {tag} in {wheels}")
    for wheel in wheels:
        check_contents(wheel)
        if f"-{tag}-" in wheel.name:
            check_install(wheel)
        print(f"{wheel.name}: {wheel.stat().st_size / 1e6:.1f} MB, good")


if __name__ == "__main__":
    main()
