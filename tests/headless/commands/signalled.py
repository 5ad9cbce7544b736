"""Stop `patchbay run` at any time: `python -m tests.headless.commands.signalled [--trials N] [--seed N]`.

Each trial runs a workflow in a fork of this process and sends it SIGINT or SIGTERM while it loads, samples or saves.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import random
import signal
import tempfile
import time
import traceback
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

from attention_patchbay.headless.commands.cli import main
from PIL import Image

FILES = 2
CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}
DEMO = {"class_type": "PatchbayLoadDemoModel", "inputs": {}}
TEXT = {"class_type": "CLIPTextEncode", "inputs": {"text": "a red circle", "clip": ["0", 1]}}
EMPTY = {"class_type": "EmptyLatentImage", "inputs": {"width": 32, "height": 32, "batch_size": 1}}
SAMPLER = {"model": ["0", 0], "positive": ["1", 0], "negative": ["1", 0], "latent_image": ["2", 0], "denoise": 1.0}
NUMBERS = {"seed": 1, "steps": 1, "cfg": 1.0, "sampler_name": "euler", "scheduler": "normal"}
DECODED = {"class_type": "VAEDecode", "inputs": {"samples": ["3", 0], "vae": ["0", 2]}}
REPEATED = {"class_type": "RepeatImageBatch", "inputs": {"image": ["4", 0], "amount": FILES // 2}}
PROMPT: dict[str, Any] = {"0": DEMO, "1": TEXT, "2": EMPTY, "4": DECODED, "5": REPEATED}
PROMPT["3"] = {"class_type": "KSampler", "inputs": {**SAMPLER, **NUMBERS}}
for name in ("a", "b"):
    PROMPT[name] = {"class_type": "SaveImage", "inputs": {"images": ["5", 0], "filename_prefix": name}}


def _run(folder: Path) -> int:
    (folder / "workflow.json").write_text(json.dumps(PROMPT))
    return main(["run", str(folder / "workflow.json"), "--output", str(folder / "output"), "--quiet"])


def _child(folder: Path, number: int, seconds: float) -> None:
    """Run the command, in a process that does nothing after it and sends a signal to itself."""
    code, text = 1, io.StringIO()
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGPROF, lambda *_: os.kill(os.getpid(), number))
        with contextlib.redirect_stderr(text), contextlib.redirect_stdout(io.StringIO()):
            if number:
                signal.setitimer(signal.ITIMER_PROF, seconds)  # of the processor, so that other work does not matter
            try:
                code = _run(folder)
            finally:
                for each in (*CODES, signal.SIGPROF):  # the command is over; what comes now is nobody's
                    signal.signal(each, signal.SIG_IGN)
    except BaseException:
        text.write(traceback.format_exc())
    finally:
        (folder / "said").write_text(text.getvalue())
        (folder / "seconds").write_text(str(time.process_time()))
        os._exit(code)


def stopped(folder: Path, number: int, seconds: float) -> tuple[int, str, list[Path]]:
    """Run the workflow, with a signal after some seconds; return exit code, stderr and files."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # other threads of this process have nothing that the child waits for
        child = os.fork()
    if child == 0:
        _child(folder, number, seconds)
    _, status = os.waitpid(child, 0)
    said, output = folder / "said", folder / "output"
    files = sorted(output.rglob("*")) if output.exists() else []
    return os.waitstatus_to_exitcode(status), said.read_text() if said.exists() else "", files


def trial(folder: Path, number: int, seconds: float, whole: int) -> str:
    """Stop one run, check what it leaves, and return what happened in a few words."""
    code, text, files = stopped(folder, number, seconds)
    assert all(path.suffix == ".png" for path in files), files
    for path in files:
        with Image.open(path) as picture:
            picture.load()
            assert "prompt" in picture.info  # type: ignore[attr-defined]
    if code == 0:
        assert len(files) == whole, files
        return "it had ended"
    if code == -signal.SIGTERM:  # before the command could hear it
        assert not files
        return "SIGTERM at its very beginning"
    assert code == CODES[signal.Signals(number)], (code, text)
    assert text.splitlines() == [f"patchbay: {'interrupted' if code == 130 else 'terminated'}"], text
    assert "Traceback" not in text
    where = "saving" if files else "loading or sampling"
    return f"{signal.Signals(number).name} while {where}"


def trials(count: int, seed: int, files: int = FILES) -> Counter[str]:
    """Stop runs at random times, half of them late, while files are saved."""
    PROMPT["5"]["inputs"]["amount"] = files // 2
    rng, found = random.Random(seed), Counter[str]()
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        assert _run(Path(folder)) == 0  # each fork has then what it imports
    with tempfile.TemporaryDirectory() as folder:
        assert stopped(Path(folder), 0, 0.0)[0] == 0
        whole = float((Path(folder) / "seconds").read_text())
    for _ in range(count):
        seconds = whole * (rng.uniform(0.6, 1.05) if rng.random() < 0.5 else rng.uniform(0.0, 0.7))
        with tempfile.TemporaryDirectory() as folder:
            found[trial(Path(folder), rng.choice(list(CODES)), seconds, files)] += 1
    return found


if __name__ == "__main__":
    command = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    command.add_argument("--trials", type=int, default=200)
    command.add_argument("--seed", type=int, default=0)
    command.add_argument("--files", type=int, default=100, help="that a whole run saves")
    args = command.parse_args()
    for what, count in sorted(trials(args.trials, args.seed, args.files).items()):
        print(f"{count} {what}")  # noqa: T201
