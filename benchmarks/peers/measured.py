"""Runs a command on one core and within a limit of memory, and says what it took.

    python measured.py SECONDS GIGABYTES COMMAND...

Prints as JSON on the last line: the status of the command, 124 if it took longer than SECONDS; the seconds that it had
the core, which hardly depend on what else runs on the machine; the peak bytes of its largest process. A command that
waits and does not compute gets ten times as long. A process of its own, as one inherits the peak of what starts it.
"""

from __future__ import annotations

import json
import math
import os
import resource
import signal
import subprocess
import sys

if __name__ == "__main__":
    limit, gigabytes, *command = sys.argv[1:]
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    resource.setrlimit(resource.RLIMIT_AS, (int(float(gigabytes) * 2**30),) * 2)
    resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(float(limit)), resource.RLIM_INFINITY))
    try:
        status = subprocess.run(command, timeout=10 * float(limit), check=False).returncode
    except subprocess.TimeoutExpired:
        status = 124
    if status == -signal.SIGXCPU:
        status = 124
    took = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = took.ru_utime + took.ru_stime
    print()  # a command that was killed may have left a line half written
    print(json.dumps({"status": status, "seconds": seconds, "bytes": took.ru_maxrss * 1024}))
