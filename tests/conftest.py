"""One thread a process, before torch is imported: tests run side by side, and equal runs must be equal to the last bit.

With several threads the arithmetic library may split a product differently when the machine is busy, which moves the
last bits of a float32 sum.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
