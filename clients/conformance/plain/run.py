"""Run the programs of the plain gRPC libraries against a gateway, and check what they report.

Usage: run.py --binary FILE --ops ADDRESS --results FILE [--short] LIBRARY=COMMAND…
The environment contains the settings of the gateway's administrator.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import subprocess
import sys
import urllib.request
from pathlib import Path

#: The plan, its flags if it is created here, and the messages of a full run.
PLANS = (
    ("standard", None, 100_000),
    ("free", None, 10_000),
    ("ten-in-flight", ["--in-flight-messages", "10"], 10_000),
)
SHORT = 2_000


def administer(binary: str, *arguments: str) -> dict:
    completed = subprocess.run([binary, *arguments, "--json"], capture_output=True, text=True, check=False)
    if completed.returncode:
        sys.exit(f"{shlex.join(arguments)}: {completed.stderr}")
    return json.loads(completed.stdout or "{}")


def closed_by_gateway(ops: str) -> dict[str, int]:
    """The connections of clients that the gateway has closed, by reason."""
    page = urllib.request.urlopen(f"http://{ops}/metrics", timeout=10).read().decode()
    found = re.findall(
        r'^warrengate_connections_closed_total\{listener="grpc",reason="(\w+)"\} ([\d.]+)', page, re.MULTILINE
    )
    return {reason: int(float(count)) for reason, count in found if reason != "peer"}


def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("--binary", "--ops", "--results"):
        parser.add_argument(name, required=True)
    parser.add_argument("--short", action="store_true")
    parser.add_argument("programs", nargs="+")
    options = parser.parse_args()
    table: dict[str, list[str]] = {}
    columns, failures = [], 0
    for plan, flags, messages in PLANS:
        if flags is not None:
            administer(options.binary, "plan", "create", plan, *flags)
        administer(options.binary, "tenant", "create", plan, "--plan", plan)
        client = administer(options.binary, "client", "create", f"{plan}.plain", "--all")
        secret = client.get("clientSecret") or client.get("client_secret")
        environment = {**os.environ, "WARRENGATE_CLIENT_ID": f"{plan}.plain", "WARRENGATE_CLIENT_SECRET": secret}
        environment.pop("WARRENGATE_TOKEN", None)
        count = SHORT if options.short else messages
        for program in options.programs:
            library, command = program.split("=", 1)
            subprocess.run(
                [options.binary, "queue", "declare", library], env=environment, check=True, capture_output=True
            )
            before = closed_by_gateway(options.ops)
            run = [*shlex.split(command), library, str(count)]
            completed = subprocess.run(run, env=environment, capture_output=True, text=True, check=False)
            after = closed_by_gateway(options.ops)
            answer = json.loads(completed.stdout) if completed.returncode == 0 else {}
            faults = []
            if not answer:
                faults.append(f"exit code {completed.returncode}: {completed.stderr.strip()[-1000:]}")
            elif answer["attempts"] != {"1": count}:
                faults.append(f"attempts {answer['attempts']}")
            if answer and not answer["in_order"]:
                faults.append("not in order")
            if after != before:
                faults.append(f"connections closed by the gateway: {before}, then {after}")
            if plan == "free" and count >= 2_000 and answer and not answer["throttled"]:
                faults.append("nothing was throttled, so this run shows less than it should")
            failures += bool(faults)
            what = f"{answer.get('library', library)}, {plan}, {count:,} messages"
            figures = f"{answer.get('throttled', 0):,} throttled, publishing {answer.get('publish_seconds')} s, "
            figures += f"consuming {answer.get('consume_seconds')} s"
            print(f"{'FAILED' if faults else 'ok'}: {what}: {'; '.join(faults) or figures}", flush=True)
            cell = f"{answer['publish_seconds']} s, {answer['consume_seconds']} s" if not faults else "; ".join(faults)
            again = f", {answer['throttled']:,} sent again" if answer.get("throttled") else ""
            table.setdefault(answer.get("library", library), []).append(cell + again)
            columns.append(f"{plan}, {count:,} messages")
    # The table of docs/compatibility.md.
    head = ["library", *dict.fromkeys(columns)]
    lines = [head, ["---"] * len(head), *([library, *cells] for library, cells in table.items())]
    Path(options.results).write_text("".join(f"| {' | '.join(cells)} |\n" for cells in lines))
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
