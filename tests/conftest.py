"""One thread a process, before torch is imported, and no time limit on single examples.

Tests run side by side on few cores, and two busy threads in each of them make a tiny model many times slower. A single
example of a property may then take longer than hypothesis's limit, which is a fault of the machine and not of the code.
"""

import os
import signal

os.environ.setdefault("OMP_NUM_THREADS", "1")
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    # A shell's background ignores the interrupt, and every process that a test starts would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)

from hypothesis import HealthCheck, settings

settings.register_profile("busy machine", deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy machine")
