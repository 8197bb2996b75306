"""python -m benchmarks.kernels"""

from benchmarks.kernels.measure import main

main()
