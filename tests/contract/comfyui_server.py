"""Run a real ComfyUI for the tests: on a free port, on the CPU, with this pack as the only one."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
NAME = "attention-patchbay"
CLIENT = Path(__file__).with_name("prompt_client.py")
START_SECONDS = 240
# folders of unpacked frontends; without any, ComfyUI takes the one that is installed beside it
FRONTENDS = [folder for folder in os.environ.get("COMFYUI_FRONTENDS", "").split(os.pathsep) if folder]
# urllib would ask a proxy of the environment for 127.0.0.1 too
_direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def python() -> str:
    """Return the interpreter that ComfyUI runs in."""
    return os.environ.get("COMFYUI_PYTHON", sys.executable)


class Server:
    """A server with a base directory of its own; start and stop it with `with`."""

    def __init__(self, base: Path, *arguments: str, pack: Path = ROOT) -> None:
        self.base, self.arguments = base, arguments
        for folder in ("custom_nodes", "models", "input", "output", "temp", "user"):
            (base / folder).mkdir(parents=True)
        (base / "custom_nodes" / NAME).symlink_to(pack, target_is_directory=True)
        self.log = base / "server.log"
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Server:
        command = [python(), "main.py", "--cpu", "--port", str(self.port), "--base-directory", str(self.base)]
        command += ["--database-url", f"sqlite:///{self.base}/user/comfyui.db", "--disable-auto-launch"]
        command += ["--disable-api-nodes", "--disable-all-custom-nodes", "--whitelist-custom-nodes", NAME]
        command += ["--verbose", "DEBUG", str(self.log), *self.arguments]
        with (self.base / "console.log").open("wb") as console:
            self.process = subprocess.Popen(
                command, cwd=os.environ["COMFYUI_PATH"], stdout=console, stderr=subprocess.STDOUT
            )
        try:
            self._wait()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self._stop()

    def _wait(self) -> None:
        end = time.monotonic() + START_SECONDS
        while time.monotonic() < end and self.process.poll() is None:
            try:
                self.get("/system_stats")
            except OSError:
                time.sleep(0.2)
            else:
                return
        raise RuntimeError(f"ComfyUI did not start: {(self.base / 'console.log').read_text()[-3000:]}")

    def _stop(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def read(self, path: str) -> str:
        """Return what the server serves under a path."""
        with _direct.open(self.url + path, timeout=30) as answer:
            return answer.read().decode()

    def get(self, path: str) -> Any:
        """Return the JSON that the server serves under a path."""
        return json.loads(self.read(path))

    def ask(self, path: str) -> tuple[int, Any]:
        """Return the status and the JSON of an answer, which may be a refusal."""
        try:
            return 200, self.get(path)
        except urllib.error.HTTPError as refusal:
            with refusal:
                return refusal.code, json.load(refusal)

    def post_prompt(self, workflow: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """Queue a workflow; return the status and the answer."""
        body = json.dumps({"prompt": workflow}).encode()
        request = urllib.request.Request(self.url + "/prompt", body, {"Content-Type": "application/json"})
        try:
            with _direct.open(request, timeout=30) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as refusal:
            with refusal:
                return refusal.code, json.load(refusal)

    def run(self, workflow: dict[str, Any], folder: Path, page: str = "") -> dict[str, Any]:
        """Run a workflow to the end, with its pictures put into a folder; as a page with a workflow of that id."""
        job = folder / "workflow.json"
        job.write_text(json.dumps(workflow))
        command = [python(), str(CLIENT), self.url, str(job), str(folder), page]
        done = subprocess.run(command, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def errors(self) -> list[str]:
        """Return the lines of the log that say that the pack did not load."""
        signs = r"Cannot import|Error while calling comfy_entrypoint|did not return a|due to the lack of|IMPORT FAILED"
        return [line for line in self.log.read_text().splitlines() if re.search(signs, line)]
