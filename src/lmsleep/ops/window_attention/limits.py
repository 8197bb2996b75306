"""What one program of the kernel holds. At 75 tokens torch is as fast already: longer windows are left to it."""

MAX_TOKENS = 64
MAX_CHANNELS = {2: 128, 4: 64}  # of a head, by the bytes of an element
