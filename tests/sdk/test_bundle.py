"""The SDK alone, under every Python that a base image may have."""

import shutil
import subprocess
from pathlib import Path

import pytest
from spools import bundle

VERSIONS = ("3.8", "3.9", "3.10", "3.11", "3.12", "3.13")

IMPORT = """
import sys, time
sys.path.insert(0, sys.argv[1])
sys.dont_write_bytecode = False
before = set(sys.modules)
began = time.perf_counter()
import nsml
took = time.perf_counter() - began
origins = {name: getattr(module, "__file__", None) or "" for name, module in sys.modules.items() if name not in before}
for name, file in origins.items():
    ours = name == "nsml" or name.startswith("nsml.")
    assert ours == file.startswith(sys.argv[1]), (name, file)
    assert "site-packages" not in file, (name, file)
assert not [n for n in sys.modules if n.startswith("nsml.") and n.split(".")[1] not in ("sdk", "constants", "encoder", "decoder")]
print(took)
"""

USE = """
import os, sys, threading
sys.path.insert(0, sys.argv[1])
import nsml
from nsml import *
w = lambda path: open(os.path.join(path, "f"), "w").write("1")
nsml.bind(save=w, load=w, infer=lambda x: x + 1)
nsml.report(True, None, step=1, train__loss=0.5, n=2)
nsml.report(step=2, text="hi", vector=[1, 2.5], nan=float("nan"), none=None)
nsml.save(3)
assert nsml.infer(1) == 2
assert nsml.decoder.decode(nsml.encoder.encode("hello")) == b"hello"
assert nsml.DATASET_PATH == ["/data/a", "/data/b"], nsml.DATASET_PATH
if os.fork() == 0:
    nsml.report(step=3, child=1)
    os._exit(0)
os.wait()
print("USED")
"""


def interpreter(version):
    program = shutil.which(f"python{version}")
    beside = Path(program).parent.parent / "versions" if program else Path("/opt/python")  # of a shim
    for root in (beside, Path.home() / ".pyenv" / "versions", Path("/opt/python"), Path("/usr/local")):
        for candidate in sorted(root.glob(f"{version}*/bin/python")):
            return str(candidate)
    runs = program and subprocess.run([program, "-c", ""], capture_output=True, check=False).returncode == 0
    return program if program and runs else pytest.skip(f"no Python {version} here")


@pytest.mark.parametrize("version", VERSIONS)
def test_the_import_is_quick_and_brings_the_standard_library_alone(version, tmp_path):
    command = [interpreter(version), "-I", "-S", "-c", IMPORT, str(bundle(tmp_path))]
    took = []
    for _ in range(5):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        took.append(float(done.stdout))
    assert min(took) < 0.060, took


@pytest.mark.parametrize("version", VERSIONS)
def test_every_call_works_under_every_version(version, tmp_path, node):
    command = [
        interpreter(version),
        "-I",
        "-S",
        "-W",
        "error::SyntaxWarning",
        "-c",
        USE,
        str(bundle(tmp_path)),
    ]
    env = node.env(NSML_DATASET_PATH='["/data/a", "/data/b"]')
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=60)
    assert "USED" in done.stdout, done.stderr
    first, second, third = node.reports()
    assert first.values == (("train/loss", 0.5), ("n", 2.0)) and first.summary and first.step == 1
    assert [name for name, _ in second.values] == ["text", "vector", "nan"]
    assert third.values == (("child", 1.0),)


def test_the_root_imports_the_sdk_and_nothing_else():
    source = (Path(__file__).resolve().parents[2] / "nsml" / "__init__.py").read_text()
    assert len(source.splitlines()) <= 40
