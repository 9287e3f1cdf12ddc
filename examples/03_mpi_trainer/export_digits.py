"""Write scikit-learn's handwritten digits as the lines that 03_mpi_trainer reads.

    python export_digits.py digits.csv

64 pixels from 0 to 16 and the label: the lines of optdigits.tes in the UCI repository, whose digits
these are.
"""

import sys

import numpy as np
from sklearn.datasets import load_digits

images, labels = load_digits(return_X_y=True)
np.savetxt(sys.argv[1], np.column_stack([images, labels]), fmt="%d", delimiter=",")
