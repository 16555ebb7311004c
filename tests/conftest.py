"""One thread a process, before torch is imported.

Tests run side by side on few cores, and two busy threads in each of them make a tiny model many times slower.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
