"""Runs a command on one core and within a limit of memory, and says what it took.

    python measured.py SECONDS GIGABYTES COMMAND...

Prints as JSON on the last line: the status of the command, 124 if it took longer than SECONDS; the seconds that it had
the core, which hardly depend on what else runs on the machine; the peak bytes of its largest process. A process of its
own, as a process inherits the peak of the one that starts it.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys

if __name__ == "__main__":
    limit, gigabytes, *command = sys.argv[1:]
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    resource.setrlimit(resource.RLIMIT_AS, (int(float(gigabytes) * 2**30),) * 2)
    try:
        status = subprocess.run(command, timeout=float(limit), check=False).returncode
    except subprocess.TimeoutExpired:
        status = 124
    took = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = took.ru_utime + took.ru_stime
    print(json.dumps({"status": status, "seconds": seconds, "bytes": took.ru_maxrss * 1024}))
