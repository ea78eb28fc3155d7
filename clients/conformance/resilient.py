#!/usr/bin/env python3
"""Runs the guides' programs that survive everything (examples/resilient) while gateways, broker and network fail.

resilient.py [LANGUAGE…] [--binary PATH] [--check]

Each program publishes 2,000 orders and consumes them. It must end neither by itself nor lose an order, and have at most
25 lines of code: no imports, comments or closing brackets. With --check only the lines are counted, and the guides must
contain the programs.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import shutil
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from run import Administrator, Driver, Failed, Run
from stack import ROOT, Stack

ORDERS = 2000
MAX_LINES = 25
WITHIN = 180
PROGRAMS = {
    "python": ("clients/python/examples/resilient.py", ["${PYTHON}", "clients/python/examples/resilient.py"]),
    "typescript": ("clients/typescript/examples/resilient.mjs", ["node", "clients/typescript/examples/resilient.mjs"]),
    "go": ("clients/go/examples/resilient/main.go", ["target/clients/go-resilient"]),
    "java": (
        "clients/java/src/test/java/io/github/warrengate/examples/Resilient.java",
        ["java", "@target/clients/java-resilient.arguments"],
    ),
    "rust": ("clients/rust/examples/resilient.rs", ["target/clients/rust-resilient"]),
}
#: A fault after this number of different orders.
FAULTS = [
    (100, {"fault": "kill_gateway", "gateway": 0}),
    (500, {"fault": "start_gateway", "gateway": 0}),
    (600, {"fault": "drain_gateway", "gateway": 1}),
    (900, {"fault": "start_gateway", "gateway": 1}),
    (1000, {"fault": "cut"}),
    (1000, {"fault": "wait", "ms": 2000}),
    (1000, {"fault": "restore"}),
    (1500, {"fault": "kill_broker", "down_ms": 2000}),
]


def code(text: str) -> list[str]:
    """Return the lines that count."""
    text = re.sub(r"^import \((.*?)^\)$", "", text, flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r"/\*\*.*?\*/", "", text, flags=re.DOTALL)
    skipped = re.compile(r"\s*(import .*|from .* import .*|use .*|package .*|(//|#).*|[)}\]];?\)?;?)?$")
    return [line for line in text.splitlines() if not skipped.fullmatch(line)]


def in_guide(text: str, language: str) -> bool:
    """Whether the guide contains the program, apart from its leading comments and attributes."""
    program = re.sub(r"^(//.*\n|#!\[.*\n|\n)+", "", text).strip()
    return program in (ROOT / f"docs/guides/{language}.md").read_text()


async def run(stack: Stack, admin: Administrator, language: str) -> None:
    case = {"name": f"resilient_{language}", "steps": []}
    run = Run(stack, admin, case, [], False)
    await run._prepare()
    command = [
        os.environ.get("PYTHON", sys.executable) if word == "${PYTHON}" else word for word in PROGRAMS[language][1]
    ]
    env = {name: value for name, value in os.environ.items() if not name.startswith("WARRENGATE_")}
    env |= {
        "WARRENGATE_ENDPOINT": run.proxy.endpoint,
        "WARRENGATE_CA": str(stack.ca),
        "WARRENGATE_CLIENT_ID": run.values["$client_id"],
        "WARRENGATE_CLIENT_SECRET": run.values["$client_secret"],
    }
    run.driver = Driver(command, env, run.values["$client_secret"], False)
    await run.driver.start()
    try:
        async with asyncio.timeout(WITHIN):
            faults = list(FAULTS)
            while True:
                lines = [line.strip() for line in run.driver.log]
                shipped = {line for line in lines if line.startswith("shipped order ")}
                while faults and len(shipped) >= faults[0][0]:
                    await run._fault(faults.pop(0)[1])
                if len(shipped) == ORDERS:
                    break
                if run.driver.has_ended():
                    raise Failed("the program has ended:\n" + "".join(run.driver.log[-20:]))
                await asyncio.sleep(0.05)
        if faults:
            raise Failed(f"{len(faults)} faults were not caused")
    except TimeoutError:
        missing = ORDERS - len(shipped)
        raise Failed(f"{missing} orders are missing after {WITHIN} s:\n" + "".join(run.driver.log[-20:])) from None
    finally:
        await run.driver.kill()
        await run.proxy.close()
        await stack.restore()
        await run.cleanup()


async def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("languages", nargs="*", metavar="LANGUAGE")
    parser.add_argument("--binary", type=Path, default=ROOT / "target/debug/warrengate")
    parser.add_argument("--check", action="store_true")
    arguments = parser.parse_args()
    languages, failed = arguments.languages or list(PROGRAMS), 0
    for language in languages:
        text = (ROOT / PROGRAMS[language][0]).read_text()
        lines, contained = code(text), in_guide(text, language)
        if len(lines) > MAX_LINES or not contained:
            print(f"FAIL {language}: {len(lines)} lines; in the guide: {contained}", flush=True)
            failed += 1
    if arguments.check or failed:
        return 1 if failed else 0
    folder = Path(tempfile.mkdtemp(prefix="warrengate-resilient-"))
    folder.chmod(0o711)
    stack = Stack(folder, arguments.binary.resolve())
    admin = Administrator(stack)
    try:
        await stack.start()
        await admin.start()
        for language in languages:
            try:
                await run(stack, admin, language)
                print(f"ok   {language}: {len(code((ROOT / PROGRAMS[language][0]).read_text()))} lines", flush=True)
            except Failed as failure:
                print(f"FAIL {language}: {failure}", flush=True)
                failed += 1
    finally:
        await admin.close()
        stack.stop()
        shutil.rmtree(folder, ignore_errors=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
