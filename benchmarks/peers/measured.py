"""Runs a command on one core and within a limit of memory, and says what it took.

    python measured.py SECONDS GIGABYTES COMMAND...

Prints seconds and peak bytes (of the largest process) as JSON on the last line and exits with the command's status; 124
if it took longer than SECONDS. A process of its own, as a process inherits the peak of the one that starts it.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time

if __name__ == "__main__":
    limit, gigabytes, *command = sys.argv[1:]
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    resource.setrlimit(resource.RLIMIT_AS, (int(float(gigabytes) * 2**30),) * 2)
    start = time.perf_counter()
    try:
        status = subprocess.run(command, timeout=float(limit), check=False).returncode
    except subprocess.TimeoutExpired:
        status = 124
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    print(json.dumps({"status": status, "seconds": seconds, "bytes": peak}))
