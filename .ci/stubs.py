"""Writes src/npublas/_core.pyi from the installed module; with --print, to stdout instead.

pybind11-stubgen says `dict` and `list`, and no more, where the bindings return such things; mypy
--strict wants to know of what.
"""

import re
import subprocess
import sys
import tempfile
from pathlib import Path

TARGET = Path(__file__).parent.parent / "src" / "npublas" / "_core.pyi"
PARAMETERS = {"dict": "str, typing.Any", "list": "typing.Any", "tuple": "typing.Any, ..."}


def stub() -> str:
    with tempfile.TemporaryDirectory() as folder:
        generator = [sys.executable, "-m", "pybind11_stubgen", "npublas._core"]
        # --exit-code: fail on whatever could not be expressed.
        options = ["--output-dir", folder, "--exit-code"]
        subprocess.run([*generator, *options], check=True, stdout=subprocess.DEVNULL)
        text = Path(folder, "npublas", "_core.pyi").read_text()
    return re.sub(
        r"(?<=[:>] )(dict|list|tuple)(?=:| =|,|\)| \||$)",
        lambda match: f"{match[1]}[{PARAMETERS[match[1]]}]",
        text,
        flags=re.MULTILINE,
    )


if __name__ == "__main__":
    if sys.argv[1:] == ["--print"]:
        sys.stdout.write(stub())
    else:
        TARGET.write_text(stub())
