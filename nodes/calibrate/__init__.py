"""`lineup calibrate`: which threshold, and what it costs in misses and false hits, measured on labelled photos.

Terms are those of ISO/IEC 19795-1: genuine and impostor comparisons, false match rate (FMR), false non-match rate
(FNMR; the true match rate, TMR, is 1 - FNMR), and for searches of a gallery false positive and false negative
identification rate (FPIR, FNIR).
"""
