"""Fitting: from measurements to the numbers of targets. Scripts and checks; the compiler itself does not need them."""
